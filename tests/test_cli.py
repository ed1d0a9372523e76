"""The command line as a user meets it: real processes, real files, exit codes and one-line errors."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest


def tokjax(*arguments, cwd=None, stdin=b""):
    return subprocess.run(
        [sys.executable, "-m", "tokjax", *map(str, arguments)], input=stdin, capture_output=True, cwd=cwd, timeout=500
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i}: the quick brown fox jumps over {i * i} dogs." for i in range(300)))
    return f"file:{path}?records=paragraphs"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("run") / "w"
    done = tokjax(
        "train", "--config", "lm:smoke", "--workdir", path, "--quiet", f"--config.source={text}",
        "--config.tokenizer.vocab_size=300",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return path


def test_help_names_every_command():
    shown = tokjax("--help").stdout.decode()
    for command in (
        "compare", "train", "eval", "sample", "fit", "encode", "decode", "study", "systems", "tokenizers", "sources",
        "images", "papers", "tokenize", "export", "plan", "watch",
    ):  # fmt: skip
        assert f"\n    {command}" in shown


@pytest.mark.parametrize(
    ("command", "holds"),
    [
        ("systems", "hat"),
        ("tokenizers", "bpe"),
        ("sources", "pydocs"),
        ("images", "digits"),
        ("quantizers", "fsq"),
        ("papers", "2501.10322"),
    ],
)
def test_lists(command, holds):
    assert holds in tokjax(command).stdout.decode()


def test_training_logs_what_scripts_read(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20
    assert all({"step", "loss", "bits_per_byte"} <= set(line) for line in lines)


def test_eval_and_sample(workdir):
    scored = tokjax("eval", "--workdir", workdir, "--json")
    assert 0 < json.loads(scored.stdout)["bits_per_byte"] < 10
    first, second = (tokjax("sample", "--workdir", workdir, "--prompt", "The ", "--steps", 8) for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stdout.startswith(b"The ")


def test_fit_encode_decode_are_inverse(tmp_path, text):
    fitted = tmp_path / "bpe"
    assert tokjax("fit", "--tokenizer", "bpe", "--source", text, "--vocab", 300, "--out", fitted).returncode == 0
    data = bytes(range(256)) * 3 + "Paragraph 7: naïve\n".encode()
    for tokenizer in (fitted, "bytes", "words"):
        ids = tokjax("encode", "--tokenizer", tokenizer, stdin=data)
        assert tokjax("decode", "--tokenizer", tokenizer, stdin=ids.stdout).stdout == data
        shown = tokjax("encode", "--tokenizer", tokenizer, "--text", stdin=data)
        assert tokjax("decode", "--tokenizer", tokenizer, "--text", stdin=shown.stdout).stdout == data
    (tmp_path / "in").write_bytes(data)
    assert tokjax("encode", "--tokenizer", "bytes", "in", "ids", cwd=tmp_path).returncode == 0
    assert tokjax("decode", "--tokenizer", "bytes", "ids", "out", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--config", "lmm", "--workdir", "w"], "'lm'"),
        (["train", "--config", "lm:smoke", "--workdir", "w", "--config.train.step=3"], "'steps'"),
        (["train", "--config", "lm:smoke", "--workdir", "w", "--config.system.backbone.heads=3"], "heads"),
        (["train", "--config", "m1:smoke", "--workdir", "w", "--config.system.embedding=pooled_bytes"], "byte2word"),
        (["train", "--config", "lm:smoke", "--workdir", "w", "--config.source=file:absent.txt"], "absent.txt"),
        (["compare", "--systems", "bytes,bppe", "--out", "c"], "'bpe'"),
        (["compare", "--budget", "0", "--out", "c"], "--budget"),
        (["compare", "--seeds", "0", "--out", "c"], "--seeds"),
        (["compare", "--systems", "vqgan", "--out", "c"], "--images"),
        (["compare", "--images", "digits", "--systems", "vqgna", "--out", "c"], "'vqgan'"),
        (["compare", "--images", "digits", "--systems", "lm:smoke", "--out", "c"], "no images"),
        (["compare", "--images", "digits", "--seeds", "0", "--out", "c"], "--seeds"),
        (["compare", "--images", "digits", "--budget", "5MB", "--out", "c"], "50000images"),
        (["compare", "--images", "digits", "--context-bytes", "64", "--out", "c"], "--context-bytes"),
        (["compare", "--images", "digits", "--source", "pydocs", "--out", "c"], "not allowed with"),
        (["compare", "--images", "digitz", "--out", "c"], "'digits'"),
        (["eval", "--workdir", "absent"], "absent"),
        (["watch", "absent"], "absent: no run has written here"),
        (["watch", ".", "--once"], ".: no run has written here"),
        (["watch", "w", "--interval", "0"], "--interval: got 0"),
        (["watch", "nonsense://w"], "nonsense"),
        (["sample", "--workdir", "absent"], "absent"),
        (["sample", "--workdir", "absent", "--seed", "99999999999999999999"], "--seed"),
        (["encode", "--tokenizer", "bpe"], "tokjax fit"),
        (["encode", "--tokenizer", "bytes", "absent.bin"], "absent.bin"),
        (["encode", "--tokenizer", "absent/dir"], "absent/dir"),
        (["decode", "--tokenizer", "bytes", "--text"], "x"),
        (["fit", "--tokenizer", "bpe", "--vocab", "3", "--out", "t"], "vocab_size"),
        (["study", "spacebite", "--out", "s"], "'spacebyte'"),
        (["eval", "--workdir", "w", "--config.a=1"], "unrecognized"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_mistakes_exit_2_with_one_line(arguments, says, tmp_path):
    done = tokjax(*arguments, cwd=tmp_path, stdin=b"x\n")
    error = done.stderr.decode()
    assert done.returncode == 2, error
    assert says in error
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("tokjax")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["encode", "--tokenizer", "bytes"], ["systems"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(command, unbuffered):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tokjax", *command],
            input=b"x" * 100_000, stdout=full, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 2
    assert b"No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs file size limits")
def test_ids_that_fit_in_part_are_an_error_without_buffering():
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "import sys; from tokjax.cli import main; sys.exit(main(['encode', '--tokenizer', 'bytes']))"
    )
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(
            [sys.executable, "-u", "-c", code], input=b"x" * 100_000, stdout=out, stderr=subprocess.PIPE
        )
    assert done.returncode == 2, done.stderr


def test_relative_workdirs_prompts_of_any_bytes_and_another_tokenizer(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "w")
    more = ("train", "--config", "lm:smoke", "--workdir", "w", "--quiet", "--config.tokenizer.vocab_size=300")
    source = json.loads(next((workdir / "checkpoints").glob("*/metadata.json")).read_text())["config"]["source"]
    done = tokjax(*more, f"--config.source={source}", "--config.train.steps=21", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    done = subprocess.run(
        [sys.executable, "-m", "tokjax", "sample", "--workdir", "w", "--steps", "2", "--prompt", b"a\xff\xc3\xa9"],
        cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith("a\N{REPLACEMENT CHARACTER}é".encode())
    shutil.rmtree(tmp_path / "w" / "tokenizer")
    fitted = tmp_path / "w" / "tokenizer"
    tokjax("fit", "--tokenizer", "bpe", "--source", source, "--split", "test", "--vocab", 300, "--out", fitted)
    done = tokjax("sample", "--workdir", "w", cwd=tmp_path)
    assert done.returncode == 2 and b"another tokenizer" in done.stderr


def test_configurations_work_from_any_directory(tmp_path):
    done = tokjax("train", "--config", "hat:smoke", "--workdir", "w", "--config.train.steps=0", cwd=tmp_path)
    assert done.returncode == 2
    assert b"train.steps" in done.stderr


@pytest.mark.slow
def test_compare_images(tmp_path):
    done = tokjax(
        "compare", "--images", "digits", "--systems", "vqgan/body.widths=8,8,titok", "--budget", "640images",
        "--scale", "smoke", "--seeds", 1, "--quiet", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode()
    assert "vqgan/body.widths=8,8 seed 0: " in shown and "highest PSNR after 640 training images" in " ".join(
        shown.split()
    )
    assert [row["system"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]][1] == "titok"
    assert (tmp_path / "report.html").exists() and (tmp_path / "psnr_bits.png").exists()


@pytest.mark.slow
def test_compare_and_study(tmp_path, text):
    done = tokjax(
        "compare", "--source", text, "--systems", "bytes,bpe:300", "--budget", "2e10flops", "--scale", "smoke",
        "--seeds", 2, "--context-bytes", 64, "--quiet", "--out", tmp_path / "c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert len(json.loads((tmp_path / "c" / "results.json").read_text())["rows"]) == 4
    assert (tmp_path / "c" / "report.html").exists()
    assert (tmp_path / "c" / "bits_per_byte_flops.png").exists()
    done = tokjax("study", "spacebyte", "--scale", "smoke", "--seeds", 1, "--quiet", "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr.decode()
    assert {"rows", "claims", "environment"} <= set(json.loads((tmp_path / "s" / "result.json").read_text()))
    shown = done.stdout.decode()
    assert "paper: 1.009 against 0.989" in shown and "bits/byte" in shown and "Means of 1 seed on " in shown
    *lines, path = shown.splitlines()  # as long as the directory's name
    assert path.startswith("result: ")
    assert max(map(len, lines)) <= 80
