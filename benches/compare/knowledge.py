"""Beam search with a lexicon, a word n-gram and hotwords: candle-ctc beside flashlight-text (C++, with KenLM) and
pyctcdecode (Python, with KenLM), on the same emissions in one run.

    pip install -r benches/compare/requirements-decode.txt    # wheels for Python 3.8 to 3.11
    python benches/compare/knowledge.py [PROGRAM]

PROGRAM is the built `compare_knowledge`; without it, `cargo bench` builds and runs it. The language is made up: 20000
words, and sentences in which words have favourite followers; a trigram model is estimated from it. Emissions say other
sentences, with letters that were misheard. Width 50, one thread. flashlight-text prunes nothing but the beam;
pyctcdecode runs with its defaults (tokens below e^-5 and beams 10 below the best are dropped), and candle-ctc with
both. Times are the medians of several passes over all emissions.

Of each text that was found, the score is computed here in f64: its log-likelihood over all paths, plus the natural
logarithm of its probability in KenLM. A space at the end of the text may be there or not, whichever is better.
"""

import collections
import logging
import math
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import kenlm
import numpy as np

logging.disable(logging.WARNING)
from flashlight.lib.text.decoder import (  # noqa: E402
    CriterionType,
    LexiconDecoder,
    LexiconDecoderOptions,
    SmearingMode,
    Trie,
)
from flashlight.lib.text.decoder.kenlm import KenLM  # noqa: E402
from flashlight.lib.text.dictionary import Dictionary  # noqa: E402
from likelihood import log_likelihood, log_softmax  # noqa: E402
from pyctcdecode import build_ctcdecoder  # noqa: E402

WORDS, SENTENCES, UTTERANCES, WIDTH, RUNS = 20000, 60000, 8, 50, 3
LETTERS = " abcdefghijklmnopqrstuvwxyz"
CLASSES = len(LETTERS) + 1
UNKNOWN = -1e9
BOOST = 5.0


def make_words(rng):
    starts = "b br c ch d dr f fl g gr h j k l m n p pl r s sh st t tr v w".split()
    vowels = "a e i o u ai ea ee ou".split()
    ends = ["", "", "b", "ck", "d", "ll", "m", "n", "nd", "p", "r", "s", "t"]
    words = set()
    while len(words) < WORDS:
        syllables = rng.choices([1, 2, 3], [1, 3, 2])[0]
        words.add("".join(rng.choice(part) for _ in range(syllables) for part in (starts, vowels, ends)))
    words = sorted(words)
    rng.shuffle(words)
    return words


class Language:
    """Words by Zipf's law, each with a few favourite followers."""

    def __init__(self, words, rng):
        self.words, self.rng = words, rng
        self.weights = np.cumsum(1 / np.arange(1, len(words) + 1))
        self.followers = {}

    def any_word(self):
        return int(np.searchsorted(self.weights, self.rng.random() * self.weights[-1]))

    def sentence(self, length):
        word, found = self.any_word(), []
        for _ in range(length):
            found.append(self.words[word])
            if word not in self.followers:
                self.followers[word] = [self.any_word() for _ in range(8)]
            word = self.rng.choice(self.followers[word]) if self.rng.random() < 0.6 else self.any_word()
        return found


def write_arpa(path, sentences, words):
    """Trigrams with Witten-Bell smoothing."""
    counts = [collections.Counter() for _ in range(3)]
    for sentence in sentences:
        marked = ["<s>", *sentence, "</s>"]
        for order in range(3):
            counts[order].update(tuple(marked[i : i + order + 1]) for i in range(len(marked) - order))
    behind = [collections.defaultdict(lambda: [0, 0]) for _ in range(3)]
    for order in range(3):
        for ngram, count in counts[order].items():
            if ngram != ("<s>",):
                of = behind[order][ngram[:-1]]
                of[0] += count
                of[1] += 1
    known = [("</s>",), *((word,) for word in words), ("<unk>",)]
    total, types = behind[0][()]
    probs = [{word: (counts[0][word] + types / len(known)) / (total + types) for word in known}, {}, {}]
    for order in (1, 2):
        for ngram, count in counts[order].items():
            all_, different = behind[order][ngram[:-1]]
            probs[order][ngram] = (count + different * probs[order - 1][ngram[1:]]) / (all_ + different)
    probs[0][("<s>",)] = 1e-99
    with open(path, "w") as out:
        print("\\data\\", *(f"ngram {n + 1}={len(p)}" for n, p in enumerate(probs)), sep="\n", file=out)
        for order in range(3):
            print(f"\n\\{order + 1}-grams:", file=out)
            for ngram, prob in probs[order].items():
                backoff = ""
                if order < 2 and ngram in behind[order + 1]:
                    all_, different = behind[order + 1][ngram]
                    backoff = f"\t{math.log10(different / (all_ + different)):.7f}"
                print(f"{math.log10(prob):.7f}\t{' '.join(ngram)}{backoff}", file=out)
        print("\n\\end\\", file=out)


def emissions(text, rng):
    """A peak for each letter, every four to seven frames; some letters are misheard, and all are noisy."""
    rows = []
    for letter in text:
        label = LETTERS.index(letter) + 1
        for frame in range(rng.integers(4, 8)):
            row = rng.normal(0, 1.5, CLASSES)
            row[0] += 7
            if frame == 2:
                heard = label if rng.random() < 0.85 else rng.integers(1, CLASSES)
                row[heard] += rng.uniform(6, 10)
                row[label] += 4
            rows.append(row)
    return np.ascontiguousarray(log_softmax(np.array(rows)), dtype=np.float32)


def text_log_likelihood(log_probs, text):
    return log_likelihood(log_probs, [LETTERS.index(c) + 1 for c in text])


def word_errors(reference, found):
    """The word edit distance."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            before, row[j] = row[j], min(before + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def flashlight(arpa, words):
    lexicon = {word: [[*(LETTERS.index(c) + 1 for c in word), 1]] for word in words}
    dictionary = Dictionary()
    for word in [*words, "<unk>"]:
        dictionary.add_entry(word)
    dictionary.set_default_index(dictionary.get_index("<unk>"))
    model = KenLM(arpa, dictionary)
    trie = Trie(CLASSES, 1)
    start = model.start(False)
    for word, spellings in lexicon.items():
        index = dictionary.get_index(word)
        _, score = model.score(start, index)
        for spelling in spellings:
            trie.insert(spelling, index, score)
    trie.smear(SmearingMode.MAX)
    options = LexiconDecoderOptions(
        beam_size=WIDTH,
        beam_size_token=CLASSES,
        beam_threshold=1e9,
        lm_weight=math.log(10),
        word_score=0.0,
        unk_score=-math.inf,
        sil_score=0.0,
        log_add=True,
        criterion_type=CriterionType.CTC,
    )
    unknown = dictionary.get_index("<unk>")
    decoder = LexiconDecoder(options, trie, model, 1, 0, unknown, [], False)

    def decode(log_probs):
        best = decoder.decode(log_probs.ctypes.data, *log_probs.shape)[0]
        return " ".join(dictionary.get_entry(word) for word in best.words if word >= 0)

    return decode


def timed(run, everything):
    times, found = [], None
    for _ in range(RUNS):
        start = time.perf_counter()
        found = [run(log_probs) for log_probs in everything]
        times.append(time.perf_counter() - start)
    return statistics.median(times) / len(everything) * 1e3, found


def main():
    root = pathlib.Path(__file__).parents[2]
    program = sys.argv[1:] or ["cargo", "bench", "--bench", "compare_knowledge", "--"]
    rng = random.Random(1)
    words = make_words(rng)
    language = Language(words, rng)
    training = [language.sentence(rng.randint(3, 14)) for _ in range(SENTENCES)]
    said = [language.sentence(35) for _ in range(UTTERANCES)]
    noise = np.random.default_rng(1)
    everything = [emissions(" ".join(sentence), noise) for sentence in said]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        arpa, listed = folder / "lm.arpa", folder / "words.txt"
        write_arpa(arpa, training, words)
        listed.write_text("\n".join(words))
        # A tenth of them is said.
        spoken = sorted({word for sentence in said for word in sentence})
        hotwords = {}
        for count in (100, 1000):
            chosen = rng.sample(spoken, min(count // 10, len(spoken)))
            hotwords[count] = (chosen + rng.sample(words, count))[:count]
            (folder / f"hotwords{count}.txt").write_text("\n".join(hotwords[count]))
        files = []
        for number, log_probs in enumerate(everything):
            files.append(str(folder / f"{number}.npy"))
            np.save(files[-1], log_probs)
        model = kenlm.Model(str(arpa))

        def total(texts):
            scores = []
            for text, log_probs in zip(texts, everything):
                likelihood = max(text_log_likelihood(log_probs, end) for end in (text, text + " "))
                scores.append(likelihood + math.log(10) * model.score(text))
            return scores

        out = subprocess.run(
            [*program, str(arpa), str(listed), str(BOOST), str(WIDTH), str(RUNS)]
            + [str(folder / f"hotwords{count}.txt") for count in (100, 1000)]
            + files,
            cwd=root, check=True, capture_output=True, text=True,
        ).stdout
        ours = {}
        for line in out.splitlines():
            name, *rest = line.split("\t")
            if rest[0] == "ms":
                ours[name] = (float(rest[1]), [])
            else:
                ours[name][1].append(rest[1])
        def row(name, who, time_, beside, texts, hot=None):
            scores = total(texts)
            better = sum(a >= b - 1e-3 for a, b in zip(total(beside[1]), scores))
            wrong = sum(word_errors(sentence, text.split()) for text, sentence in zip(texts, said))
            heard = ""
            if hot is not None:
                hot = set(hot)
                n_said = sum(word in hot for sentence in said for word in sentence)
                n_heard = sum(len(hot & set(t.split()) & set(s)) for t, s in zip(texts, said))
                heard = f"{n_heard} of {n_said}"
            print(
                f"| {name} | {who} | {time_:.1f} | {time_ / beside[0]:.1f} | {sum(scores) / len(scores):.2f} | "
                f"{better} of {len(scores)} | {wrong} | {heard} |"
            )

        frames = sum(len(log_probs) for log_probs in everything) / len(everything)
        print(f"{UTTERANCES} utterances of {frames:.0f} frames and {CLASSES} classes on average\n")
        print("| Knowledge | | ms | times candle-ctc's | mean score | candle-ctc at least as good | wrong words | hotwords heard |")
        print("|---|---|---:|---:|---:|---:|---:|---:|")
        name = "lexicon and trigrams"
        row(name, "candle-ctc", ours["exact"][0], ours["exact"], ours["exact"][1])
        time_, texts = timed(flashlight(str(arpa), words), everything)
        row("", "flashlight-text", time_, ours["exact"], texts)
        for name, width in [("half", WIDTH // 2), ("fifth", WIDTH // 5)]:
            row(f"width {width}", "candle-ctc", ours[name][0], ours[name], ours[name][1])
            row("", "flashlight-text, as above", time_, ours[name], texts)
        row("with pyctcdecode's thresholds", "candle-ctc", ours["pruned"][0], ours["pruned"], ours["pruned"][1])
        labels = ["", *LETTERS]
        decoder = build_ctcdecoder(
            labels, str(arpa), words, alpha=1.0, beta=0.0, unk_score_offset=UNKNOWN, lm_score_boundary=True
        )
        time_, texts = timed(lambda x: decoder.decode(x, beam_width=WIDTH), everything)
        row("", "pyctcdecode", time_, ours["pruned"], texts)
        for count in (100, 1000):
            hot = hotwords[count]
            beside = ours[f"hotwords{count}"]
            row(f"the same and {count} hotwords", "candle-ctc", beside[0], beside, beside[1], hot)
            decode = lambda x: decoder.decode(x, beam_width=WIDTH, hotwords=hot, hotword_weight=BOOST)
            time_, texts = timed(decode, everything)
            row("", "pyctcdecode", time_, beside, texts, hot)


if __name__ == "__main__":
    main()
