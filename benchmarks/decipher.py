"""How much of a cipher's key a probe reads off the states of `decipher:small`, by length of the text.

python -m benchmarks.decipher --workdir runs/decipher     takes up or begins the training, about 20 minutes on 2 cores

Against it stand matching letters by frequency, and the posterior over all keys under trigrams.
"""

import argparse

import numpy as np

import tokjax
from benchmarks.common import write
from tokjax.measure.decipher import decipher, fit_decipherer, key_accuracy, match_frequencies, stretches
from tokjax.measure.key_posterior import read_by_bayes
from tokjax.measure.ngrams import fit_ngram

LENGTHS = (31, 63, 127, 255)
TEXTS, FITTED_TEXTS, POSITIONS = 64, 128, 8000


def main() -> None:
    """Trains, fits the probe on training texts, and reads test texts of every length, each under a key of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of the training run")
    config = tokjax.load_config("decipher:small").to_dict()
    model, interrupted = tokjax.train_model(config, parser.parse_args().workdir)
    if interrupted:
        raise SystemExit(1)
    source = tokjax.load_source(config["source"])
    train, test = (list(map(model.fitted.encode, source.split(split))) for split in ("train", "test"))
    size = model.system.vocab_size
    counts, trigrams = np.bincount(np.concatenate(train), minlength=size), fit_ngram(train, 3, size)
    alphabet, texts = np.flatnonzero(counts), stretches(test, LENGTHS[-1], TEXTS)
    plain = stretches(train, LENGTHS[-1], FITTED_TEXTS)
    reader = fit_decipherer(model.system, model.params, plain, positions=POSITIONS, seed=0)
    rows = []
    for length in LENGTHS:
        begun = texts[:, :length]
        found = {
            "probe": decipher(model.system, model.params, reader, begun, alphabet, seed=1),
            "frequency": match_frequencies(begun, counts),
            "trigrams": read_by_bayes(begun, trigrams, alphabet, seed=1)[0],
        }
        rows.append({
            "symbols": length,
            **{f"key_by_{name}": key_accuracy(read) for name, read in found.items()},
            **{f"text_by_{name}": float(np.mean([text.right for text in read])) for name, read in found.items()},
        })  # fmt: skip
    write("decipher", rows)


if __name__ == "__main__":
    main()
