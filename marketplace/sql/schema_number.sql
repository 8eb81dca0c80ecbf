-- One row: the number of this schema, and of the oldest code that may run on it
-- (see marketplace/core/schema.py). Written by manage.py migrate alone.
CREATE TABLE marketplace_schemanumber (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    number integer NOT NULL CHECK (number >= 0),
    code_number_min integer NOT NULL CHECK (code_number_min >= 0),
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO marketplace_schemanumber (number, code_number_min) VALUES (0, 0);
