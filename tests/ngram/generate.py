"""Writes order1.arpa to order5.arpa (order4 as .arpa.gz) and scores.json: n-gram models of random figures, and how
KenLM scores sentences under them.

    pip install -r requirements.txt
    python generate.py

A score is log10 of the probability of a word, and of the end behind the last word. KenLM computes in f32. It reads no
model of order 1, so it gets one with a 2-gram of a word that no sentence has.
"""

import gzip
import json
import pathlib
import random

import kenlm

RANDOM = random.Random(20)
WORDS = ["a", "b", "the", "cat", "été", "日本", "▁x", "it's", "<noise>", "zebra", "|"]
HERE = pathlib.Path(__file__).parent


def figures(order, count):
    """N-grams of each order, as tuples of words. Each begins with one of the order before. In that of
    order 3 a few do not end in one, as in a pruned model; KenLM takes no more than a few. The models
    of orders 3 and 5 lack <unk>."""
    unknown = [] if order in (3, 5) else ["<unk>"]
    grams = [[(word,) for word in ["<s>", "</s>", *unknown, *WORDS]]]
    for _ in range(1, order):
        longer = set()
        contexts = [gram for gram in grams[-1] if gram[-1] != "</s>"]
        for _ in range(20 * count):
            gram = RANDOM.choice(contexts) + (RANDOM.choice(["</s>", *unknown, *WORDS]),)
            if gram[1:] in grams[-1] or (order == 3 and RANDOM.random() < 0.1):
                longer.add(gram)
        grams.append(RANDOM.sample(sorted(longer), min(count, len(longer))))
    return grams


PROBS = {}


def prob(gram):
    """log10 of the probability, the same each time."""
    if gram not in PROBS:
        PROBS[gram] = -99.0 if gram == ("<s>",) else -RANDOM.uniform(0, 6)
    return PROBS[gram]


def arpa(grams):
    """The text of a model. Some backoffs are above 0, and some are left out where they are 0."""
    order = len(grams)
    lines = ["\\data\\", *(f"ngram {n + 1}={len(grams[n])}" for n in range(order))]
    for n, of_one_order in enumerate(grams):
        lines += ["", f"\\{n + 1}-grams:"]
        for gram in of_one_order:
            fields = [f"{prob(gram):.7g}", " ".join(gram)]
            if n + 1 < order and "zzz" not in grams[1][0] and gram[-1] != "</s>" and RANDOM.random() < 0.9:
                fields.append(f"{RANDOM.uniform(-3, 0.3):.7g}")
            lines.append("\t".join(fields))
    return "\n".join([*lines, "", "\\end\\", ""])


def sentence(grams):
    """Words that often follow one of the n-grams."""
    words = []
    while RANDOM.random() < 0.9:
        if RANDOM.random() < 0.7:
            words += RANDOM.choice(RANDOM.choice(grams))
        else:
            words.append(RANDOM.choice([*WORDS, "unheard", "of"]))
    return [word for word in words if word not in ("<s>", "</s>")]


cases = []
for order in range(1, 6):
    PROBS.clear()
    grams = figures(order, 25 * order)
    name = f"order{order}.arpa" + (".gz" if order == 4 else "")
    data = arpa(grams).encode()
    (HERE / name).write_bytes(gzip.compress(data, mtime=0) if order == 4 else data)
    plain = HERE / "plain.arpa"
    plain.write_bytes(data if order > 1 else arpa([[*grams[0], ("zzz",)], [("zzz", "zzz")]]).encode())
    model = kenlm.Model(str(plain))
    plain.unlink()
    sentences = [[], ["unheard"], *(sentence(grams) for _ in range(40))]
    scored = [
        {"words": words, "log10": [p for p, _, _ in model.full_scores(" ".join(words))]}
        for words in sentences
    ]
    cases.append({"file": name, "order": order, "sentences": scored})
(HERE / "scores.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")
