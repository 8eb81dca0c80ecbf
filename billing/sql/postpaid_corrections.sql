-- What was given back of predictions on credit is taken off what is reported.

-- In which transaction: what the meter reads is over, as with usage. Those that are there already
-- get this migration's number, which no seal has passed, and so the next report nets them.
ALTER TABLE billing_usagereversal ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX billing_reversal_xid ON billing_usagereversal (xid);
