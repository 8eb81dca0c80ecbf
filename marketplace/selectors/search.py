"""Find models by words, by names that are mistyped, and by what is meant.

Three lists are made over the models that the actor may see, and joined by reciprocal rank
fusion: a model's score is the sum of 1 / (60 + place) over the lists that it is in. It needs
no weights between scores that measure different things. Where the meaning is known, only texts
with all the words are in the first list: one word of five says less than the whole sentence
(docs/benchmarks.md). Else those with any of them, the ones with all first.

Source: Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and
individual Rank Learning Methods", SIGIR 2009.
"""

from __future__ import annotations

from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from marketplace.core import limits
from marketplace.core.search import list_words
from marketplace.models import AIModel
from marketplace.models.entry import to_vector

# Of each list, what can still be what somebody looked for.
WORDS_MAX = 60
MEANT_MAX = 40
NAMES_MAX = 20
# Below, two texts have no more to do with each other than any two (cosine similarity).
SIMILARITY_MIN = 0.25
# Share of trigrams; a letter too many, too few or wrong leaves about this much of a name.
NAME_SIMILARITY_MIN = 0.5
# Shorter queries are like everything.
NAME_LENGTH_MIN = 4

# The lists are exact, without an index on the embeddings: an approximate one finds too little
# where most of the neighbours may not be seen, and a catalogue has thousands of models, not
# millions.
_SQL = """
WITH visible AS MATERIALIZED (
    SELECT entry.* FROM marketplace_catalogueentry AS entry
    JOIN ({models}) AS model ON model.id = entry.model_id
), asked AS (
    SELECT * FROM marketplace_search_query(%(words)s)
), by_meaning AS (
    SELECT model_id, row_number() OVER (
        ORDER BY embedding <=> %(meant)s::vector, model_id
    ) AS place
    FROM visible
    WHERE %(meant)s::vector IS NOT NULL AND embedding IS NOT NULL
        AND embedding <=> %(meant)s::vector <= 1 - %(similarity)s
    ORDER BY place LIMIT %(meant_max)s
), by_words AS (
    SELECT model_id, row_number() OVER (
        ORDER BY words @@ all_words DESC, ts_rank(words, any_word, 1) DESC, model_id
    ) AS place
    FROM visible, asked
    WHERE words @@ any_word AND (words @@ all_words OR NOT EXISTS (SELECT FROM by_meaning))
    ORDER BY place LIMIT %(words_max)s
), by_name AS (
    SELECT model_id, row_number() OVER (
        ORDER BY word_similarity(%(name)s, label) DESC, model_id
    ) AS place
    FROM visible
    WHERE length(%(name)s) >= %(name_min)s
        AND word_similarity(%(name)s, label) >= %(name_similarity)s
    ORDER BY place LIMIT %(names_max)s
)
SELECT model_id FROM (
    SELECT * FROM by_words UNION ALL SELECT * FROM by_name UNION ALL SELECT * FROM by_meaning
) AS found
GROUP BY model_id ORDER BY sum(1.0 / (60 + place)) DESC, model_id LIMIT %(results_max)s
"""


def find_models(
    models: QuerySet[AIModel], *, query: str, meant: list[float] | None = None
) -> list[UUID]:
    """The models that fit a query, the best first.

    Args:
        models: Those that the actor may see; no others are found, whatever they say.
        query: What somebody typed.
        meant: Its embedding; without it, words alone count.
    """
    words = list_words(query)
    if not words and meant is None:
        return []
    try:
        subquery, values = models.order_by().values("id").query.sql_with_params()
    except EmptyResultSet:
        return []
    # Django's values stand first, as in its own SQL; ours are named.
    named = {f"model_{index}": value for index, value in enumerate(values)}
    subquery = subquery % tuple(f"%({name})s" for name in named)
    parameters = {
        "words": words,
        "name": " ".join(words),
        "meant": None if meant is None else to_vector(meant),
        "words_max": WORDS_MAX,
        "names_max": NAMES_MAX,
        "meant_max": MEANT_MAX,
        "name_min": NAME_LENGTH_MIN,
        "name_similarity": NAME_SIMILARITY_MIN,
        "similarity": SIMILARITY_MIN,
        "results_max": limits.SEARCH_RESULTS_MAX,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SQL.format(models=subquery), named | parameters)
        return [row[0] for row in cursor.fetchall()]
