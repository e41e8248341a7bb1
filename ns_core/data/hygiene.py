"""The report of prepare-dataset for people: what was kept, what was left out and why, and pictures of leaks.

In: the ledger, leaks with their pictures, the images they duplicate. Out: one HTML page without links, pictures
inside it.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ns_core.data.images import decode
from ns_core.data.index import SPLITS
from ns_core.data.ingest import CORRUPT, KEPT, LEAK, thumbnail
from ns_core.data.ledger import Ledger

REPORT = "hygiene.html"
PAIRS = 24
"""Leaks shown at most."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}tfoot td{font-weight:600}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
figure{margin:0}figcaption{font-size:12px;overflow-wrap:anywhere}img{height:96px;margin-right:4px}
"""


def report(ledger: Ledger, pairs: Sequence[Mapping[str, Any]], twins: Mapping[str, bytes], groups: list[int]) -> str:
    """`pairs`: rows of leaks with a `picture`, `path`, `reason` and `twin`. `twins`: image bytes by key of what
    they duplicate, where they can be shown. `groups`: sizes of the groups of look-alikes in the pool."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Dataset hygiene</title>",
        f"<style>{_STYLE}</style><h1>Dataset hygiene</h1>",
        _counts(ledger),
        _reasons(ledger),
        f"<p>{sum(groups)} images of the pool look like another one, in {len(groups)} groups (equal or nearly "
        "equal perceptual hash; all were kept): duplicates.parquet.</p>",
        _gallery(pairs, twins),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _counts(ledger: Ledger) -> str:
    """Split by state; the last column and the last line are sums."""
    states = (KEPT, CORRUPT, LEAK)
    rows = [(split, [ledger.counts[split, state] for state in states]) for split in SPLITS]
    body = "".join(_line([split, *numbers, sum(numbers)]) for split, numbers in rows)
    totals = [ledger.total(state) for state in states]
    head = "<thead><tr><th>split<th>kept<th>corrupt<th>leaks<th>came in</tr></thead>"
    foot = f"<tfoot>{_line(['all', *totals, sum(totals)])}</tfoot>"
    return f"<table>{head}<tbody>{body}</tbody>{foot}</table>"


def _line(cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells) + "</tr>"


def _reasons(ledger: Ledger) -> str:
    if not ledger.reasons:
        return "<p>Nothing was left out.</p>"
    ordered = sorted(ledger.reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = "".join(_line([split, state, reason, count]) for (split, state, reason), count in ordered[:50])
    return f"<h2>Left out</h2><table><tr><th>split<th>state<th>reason<th>images</tr>{rows}</table>"


def _gallery(pairs: Sequence[Mapping[str, Any]], twins: Mapping[str, bytes]) -> str:
    if not pairs:
        return ""
    figures = []
    for pair in pairs:
        twin = twins.get(pair["twin"])
        pictures = [pair["picture"], *([thumbnail(decode(twin))] if twin else [])]
        shown = "".join(f'<img src="data:image/jpeg;base64,{b64encode(data).decode()}">' for data in pictures)
        words = f"{pair['path']} ({pair['reason']} of {pair['twin']})"
        figures.append(f"<figure>{shown}<figcaption>{escape(words)}</figcaption></figure>")
    title = "<h2>Leaks</h2><p>Left: dropped. Right: the holdout or test image that it duplicates.</p>"
    return f"{title}<div class=pairs>{''.join(figures)}</div>"
