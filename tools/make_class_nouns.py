"""Make ``alignit/data/class_nouns.txt``: nouns for things one can show, each a single token of CLIP's vocabulary.

    python tools/make_class_nouns.py WORDNET_DIR BPE_VOCABULARY

WORDNET_DIR holds WordNet 3.0's ``index.noun`` and ``data.noun`` (Debian: package ``wordnet-base``); BPE_VOCABULARY is
``bpe_simple_vocab_16e6.txt.gz``, which the packages ``open_clip_torch`` and ``clip`` ship.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

# WordNet's lexicographer files whose nouns name what a picture can show.
SHOWN = {"05": "animal", "06": "artifact", "08": "body", "13": "food", "17": "object", "18": "person", "20": "plant"}


def single_tokens(vocabulary: Path) -> set[str]:
    """Return the whole words among CLIP's tokens."""
    merges = gzip.decompress(vocabulary.read_bytes()).decode("utf8").split("\n")[1 : 49152 - 256 - 2 + 1]
    tokens = ("".join(merge.split()) for merge in merges)
    return {token.removesuffix("</w>") for token in tokens if token.endswith("</w>")}


def shown_nouns(wordnet: Path) -> set[str]:
    """Return the nouns, not names, whose most frequent sense is of a kind in `SHOWN`."""
    senses = {}
    for line in (wordnet / "data.noun").read_text(encoding="utf8").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            senses[fields[0]] = fields[1], fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    nouns = set()
    for line in (wordnet / "index.noun").read_text(encoding="utf8").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            kind, words = senses[fields[6 + int(fields[3])]]
            if kind in SHOWN and fields[0] in words:  # names are capitalised in the sense, not in the index
                nouns.add(fields[0])
    return nouns


def main() -> None:
    """Write the list."""
    wordnet, vocabulary = map(Path, sys.argv[1:3])
    words = sorted(
        word for word in single_tokens(vocabulary) & shown_nouns(wordnet) if word.isalpha() and len(word) > 2
    )
    target = Path(__file__).parents[1] / "alignit" / "data" / "class_nouns.txt"
    target.write_text("\n".join(words) + "\n", encoding="utf8")
    print(f"{len(words)} nouns in {target}")


if __name__ == "__main__":
    main()
