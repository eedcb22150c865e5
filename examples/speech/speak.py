"""Has espeak-ng speak sentences of a small grammar: WAV files, and a manifest with the times of all words.

Needs Python's standard library and libespeak-ng, which get.sh fetches. The same seed and the same version of espeak-ng
give the same corpus.
"""

import argparse
import ctypes
import json
import pathlib
import random
import shutil
import time
import wave

# A voice of espeak-ng ("en" is British English) with a variant of its timbre.
VOICES = [
    f"{language}{variant}"
    for language in ("en-us", "en")
    for variant in ("", "+m1", "+m3", "+m7", "+f2", "+f4")
]
UNSEEN_VOICE = "en-us+f3"

# In the sentences of "names" these stand in place of the people.
NAMES = "adrian amelia beatrice dominic francesca gregory jonathan josephine natalie oliver theodore veronica".split()

PEOPLE = "anna peter martin sarah david my|sister your|brother the|teacher the|doctor our|neighbour".split()
ACTIONS = "opens closes takes brings moves paints finds watches cleans sells".split()
COMMANDS = "open close take bring move paint find watch clean sell".split()
ARTICLES = "the a my your every".split()
COLOURS = "red green blue yellow black white".split()
QUALITIES = "small large old new heavy empty broken wooden".split()
THINGS = "box lamp door window table chair letter picture clock bottle basket boat".split()
PLACES = "kitchen garden river bridge station market school office".split()
PLACE_WORDS = "near behind beside before".split()
NUMBERS = "two three four five six seven eight nine ten twenty".split()
TIMES = "today tomorrow tonight on|monday on|tuesday on|friday this|morning before|noon after|dinner".split()


def thing(rng):
    """A noun phrase of two to four words."""
    words = [rng.choice(ARTICLES)]
    words += [rng.choice(QUALITIES)] * (rng.random() < 0.4)
    words += [rng.choice(COLOURS)] * (rng.random() < 0.5)
    return words + [rng.choice(THINGS)]


def plural(rng):
    """A number and a noun with an ending."""
    return [rng.choice(NUMBERS), rng.choice(COLOURS), rng.choice("lamps doors tables chairs letters clocks boats".split())]


def sentence(rng, people):
    """Words of one sentence."""
    what = thing(rng) if rng.random() < 0.75 else plural(rng)
    where = [rng.choice(PLACE_WORDS), "the", rng.choice(PLACES)] if rng.random() < 0.5 else []
    when = rng.choice(TIMES).split("|") if rng.random() < 0.5 else []
    form = rng.random()
    if form < 0.55:
        return rng.choice(people).split("|") + [rng.choice(ACTIONS)] + what + where + when
    if form < 0.85:
        return ["please"] * (rng.random() < 0.5) + [rng.choice(COMMANDS)] + what + where + when
    return when + rng.choice(people).split("|") + ["and"] + rng.choice(people).split("|") + ["want"] + what


class Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng/speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


END_OF_LIST, WORD, PHONEME = 0, 1, 7
SYNCHRONOUS = 2
PHONEME_EVENTS, NO_EXIT = 1, 0x8000
RATE, PITCH = 1, 3
UTF8 = 1


class Synthesiser:
    """espeak-ng, called through its C interface."""

    def __init__(self, folder):
        """`folder` is what get.sh unpacked."""
        libraries = next(folder.glob("usr/lib/*/libespeak-ng.so.1")).parent
        # What libespeak-ng is linked with; the loader then finds it by name.
        for library in (folder / "libpcaudio.so.0", libraries / "libsonic.so.0"):
            ctypes.CDLL(str(library.resolve()), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str((libraries / "libespeak-ng.so.1").resolve()))
        data = next(folder.glob("usr/*/**/espeak-ng-data/phontab")).parent.parent
        self.sample_rate = self.lib.espeak_Initialize(SYNCHRONOUS, 0, str(data).encode(), PHONEME_EVENTS | NO_EXIT)
        if self.sample_rate <= 0:
            raise SystemExit(f"espeak-ng finds no data in {data}")
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
        self.callback = signature(self.take)
        self.lib.espeak_SetSynthCallback(self.callback)

    def take(self, samples, count, events):
        """Called by espeak-ng with the next samples, and the events up to them."""
        if samples and count:
            self.audio += ctypes.string_at(samples, 2 * count)
        index = 0
        while events[index].type != END_OF_LIST:
            event = events[index]
            if event.type == WORD:
                self.words.append((event.sample, event.text_position - 1, event.length))
            elif event.type == PHONEME:
                self.phonemes.append((event.sample, event.id.decode(errors="replace")))
            index += 1
        return 0

    def speak(self, text, voice, speed, pitch):
        """Samples as 16-bit little-endian bytes, events of words `(sample, position in the text, length)` and of
        phonemes `(sample, name)`."""
        self.audio, self.words, self.phonemes = bytearray(), [], []
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self.lib.espeak_SetParameter(RATE, speed, 0)
        self.lib.espeak_SetParameter(PITCH, pitch, 0)
        encoded = text.encode() + b"\0"
        if self.lib.espeak_Synth(encoded, len(encoded), 0, 1, 0, UTF8, None, None) != 0:
            raise SystemExit(f"espeak-ng cannot say {text!r}")
        return bytes(self.audio), self.words, self.phonemes



def word_times(text, words, phonemes, samples):
    """The first sample of each word and the one behind its last, or None if the synthesiser has joined words."""
    starts, position = [], 0
    for word in text.split():
        starts.append((position, len(word)))
        position += len(word) + 1
    if [(position, length) for _, position, length in words] != starts:
        return None
    times = []
    for index, (start, _, _) in enumerate(words):
        behind = words[index + 1][0] if index + 1 < len(words) else samples
        # A word ends where a pause begins, if there is one.
        pauses = [sample for sample, name in phonemes if name.startswith("_") and start < sample < behind]
        times.append((start, min(pauses, default=behind)))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espeak", type=pathlib.Path, required=True, help="the folder that get.sh unpacked")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the corpus; made anew")
    parser.add_argument("--training", type=int, default=1600, help="sentences to train with")
    parser.add_argument("--held-out", type=int, default=200, help="sentences for each of the three tests")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    start = time.monotonic()
    synthesiser = Synthesiser(args.espeak)
    rng = random.Random(args.seed)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    said, joined, seconds, vocabulary = set(), 0, 0.0, set()
    with open(args.out / "manifest.jsonl", "w") as manifest:
        splits = {"train": args.training, "seen": args.held_out, "unseen": args.held_out, "names": args.held_out}
        for split, count in splits.items():
            (args.out / split).mkdir()
            done = 0
            while done < count:
                words = sentence(rng, NAMES if split == "names" else PEOPLE)
                text = " ".join(words)
                if text in said or (split == "names" and not set(NAMES) & set(words)):
                    continue
                voice = UNSEEN_VOICE if split == "unseen" else rng.choice(VOICES)
                speed, pitch = rng.randint(130, 200), rng.randint(35, 65)
                audio, words, phonemes = synthesiser.speak(text, voice, speed, pitch)
                times = word_times(text, words, phonemes, len(audio) // 2)
                if times is None:
                    joined += 1
                    continue
                said.add(text)
                vocabulary.update(text.split())
                name = f"{split}/{done:04}.wav"
                with wave.open(str(args.out / name), "wb") as file:
                    file.setparams((1, 2, synthesiser.sample_rate, 0, "NONE", ""))
                    file.writeframes(audio)
                line = {
                    "file": name,
                    "split": split,
                    "voice": voice,
                    "speed": speed,
                    "pitch": pitch,
                    "text": text,
                    "words": [
                        [start / synthesiser.sample_rate, end / synthesiser.sample_rate] for start, end in times
                    ],
                }
                manifest.write(json.dumps(line) + "\n")
                seconds += len(audio) / 2 / synthesiser.sample_rate
                done += 1
    print(
        f"{args.out}: {len(said)} sentences, {len(vocabulary)} words, {seconds / 60:.0f} minutes of speech, "
        f"made in {time.monotonic() - start:.0f} s; {joined} left out because words were joined"
    )


main()
