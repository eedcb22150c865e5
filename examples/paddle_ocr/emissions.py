"""Reads a line of text with PP-OCRv4's recogniser and writes what candle-ctc takes: emissions.py WHEEL TEXT FOLDER.

Draws TEXT, runs the model of the wheel `rapidocr_onnxruntime` on it, and writes line.png, emissions.npy (log-probabilities,
(T, C) in f32) and vocab.txt (a token on each line, the blank first). Prints what the package's own decoder reads.
"""

import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

MODEL = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
DECODER = "rapidocr_onnxruntime/ch_ppocr_rec/utils.py"
HEIGHT = 48


def draw(text):
    """The text in black on white, HEIGHT pixels high."""
    font = ImageFont.load_default(size=34)
    left, _, right, _ = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + 24, HEIGHT), "white")
    ImageDraw.Draw(image).text((12, HEIGHT / 2), text, fill="black", font=font, anchor="lm")
    return image


def main():
    wheel, text, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        session = onnxruntime.InferenceSession(files.read(MODEL))
        decoder = folder / "decoder.py"
        decoder.write_bytes(files.read(DECODER))
    characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()

    image = draw(text)
    image.save(folder / "line.png")
    # Blue, green, red; from -1 to 1; (1, 3, height, width).
    pixels = np.asarray(image, np.float32)[:, :, ::-1] / 127.5 - 1
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})

    # A probability that f32 rounds to 0 is that of no path; the smallest number there is stands for it.
    smallest = np.finfo(np.float32).tiny
    np.save(folder / "emissions.npy", np.log(np.maximum(probabilities[0], smallest)).astype(np.float32))
    tokens = ["<blank>", *characters, " "]
    assert len(tokens) == probabilities.shape[2], (len(tokens), probabilities.shape)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")

    spec = importlib.util.spec_from_file_location("decoder", decoder)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    read = module.CTCLabelDecode(character=characters)(probabilities)
    while isinstance(read, (list, tuple)):
        read = read[0]
    print(read)


main()
