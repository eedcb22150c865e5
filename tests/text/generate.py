"""Writes the vocabularies that SentencePiece and HuggingFace's tokenizers make, and what these make of texts.

    pip install -r requirements.txt
    python generate.py

- unigram.vocab, bpe.vocab, characters.vocab: SentencePiece's `token<TAB>score`.
- tokens.txt: the tokens of unigram.vocab with their ids, as the scripts of icefall write them, with `<blk>` first and
  disambiguation symbols at the end.
- byte_level.json, wordpiece.json, unigram.json: `tokenizer.json` of the three models that HuggingFace trains.
- spellings.json: for each of these, texts and their labels. For byte_level.json, too, the text of each.
- error_rates.json: references, hypotheses, and the number of errors that jiwer counts.
"""

import json
import pathlib
import random

import jiwer
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
WORDS = (HERE.parent.parent / "examples/ocr/words.txt").read_text(encoding="utf-8").split()
RANDOM = random.Random(7)
# Some words are frequent, as in a language, so that there is something to learn.
RANDOM.shuffle(WORDS)
WEIGHTS = [1 / (rank + 3) for rank in range(len(WORDS))]


def texts(count):
    def word():
        return RANDOM.choices(WORDS, WEIGHTS)[0] + RANDOM.choice(["", "", "", "s", "ed", "er", "ers", "ing", "ings"])

    return [" ".join(word() for _ in range(RANDOM.randint(1, 6))) for _ in range(count)]


def train_sentencepiece(name, model_type, size, corpus):
    prefix = str(HERE / name)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=prefix, vocab_size=size, model_type=model_type,
        user_defined_symbols=["<blk>"], hard_vocab_limit=False, minloglevel=2, character_coverage=1.0,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    pathlib.Path(prefix + ".model").unlink()
    return model


def main():
    corpus, held_out = texts(2000), texts(40)
    spellings = {}
    for name, size in [("unigram", 700), ("bpe", 200), ("char", 60)]:
        file = {"char": "characters"}.get(name, name)
        model = train_sentencepiece(file, name, size, corpus)
        spellings[file + ".vocab"] = [[text, model.encode(text)] for text in held_out]
        if name == "unigram":
            pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    # As icefall has them: the blank is class 0.
    pieces = ["<blk>", "<sos/eos>", "<unk>"] + [p for p in pieces if not p.startswith("<")]
    lines = [f"{piece} {i}" for i, piece in enumerate(pieces + ["#0", "#1"])]
    (HERE / "tokens.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def hub(name, tokenizer, trainer):
        tokenizer.train_from_iterator(corpus, trainer)
        tokenizer.save(str(HERE / name))
        spellings[name] = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in held_out]

    byte_level = tokenizers.Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    hub("byte_level.json", byte_level, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    for text in ["naïve café, 東京 → 🙂"]:
        spellings["byte_level.json"].append([text, byte_level.encode(text).ids])

    wordpiece = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.decoder = decoders.WordPiece()
    hub("wordpiece.json", wordpiece, trainers.WordPieceTrainer(
        vocab_size=160, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False))

    unigram = tokenizers.Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    hub("unigram.json", unigram, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False))

    dump("spellings.json", spellings)

    rates = []
    for reference in held_out[:30]:
        hypothesis = "".join(c for c in reference if RANDOM.random() > 0.1)
        hypothesis = " ".join(w if RANDOM.random() > 0.2 else RANDOM.choice(WORDS) for w in hypothesis.split())
        words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
        errors = [out.substitutions + out.insertions + out.deletions for out in (words, characters)]
        rates.append([reference, hypothesis, *errors, words.wer, characters.cer])
    dump("error_rates.json", rates)


def dump(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
