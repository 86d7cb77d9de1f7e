"""Suites and pairs: what loads, what is hashed, and what bad files are told."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path

import msgspec
import polars as pl
import pytest

from harness.recording.pair import BUNDLED_PAIRS, Pair, asked_pair, choose_drafters, load_pair, pair_name
from harness.recording.suite import Task, load_suite, read_prompts
from simulator.errors import InputError

SUITE = """
name: mine
version: 3
tasks:
  - {name: sums, domain: math, hub: {file: FILE, turns: ["{a} + {b} = ?", "Sure?"]}}
  - {name: talk, domain: chat}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "prompts").mkdir()
    write(tmp_path / "prompts" / "sums.jsonl", [{"turns": ["1 + 1?"]}, {"id": "x", "turns": ["2 + 2?", "Sure?"]}])
    write(tmp_path / "prompts" / "talk.jsonl", [{"turns": ["Hi\u2028there"]}])
    return tmp_path


def write(file: Path, rows: list[object]) -> None:
    file.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8")


def test_a_task_of_too_long_a_name_is_told(folder: Path) -> None:
    (folder / "suite.yaml").write_text(f"name: mine\nversion: 3\ntasks:\n  - {{name: {'x' * 300}, domain: math}}\n")
    with pytest.raises(InputError, match="cannot be read"):
        load_suite(str(folder))


def test_a_folder_anywhere_is_a_suite(folder: Path) -> None:
    suite = load_suite(str(folder))
    assert (suite.file.name, suite.file.version, suite.source) == ("mine", 3, "suite")
    assert load_suite(str(folder), data_dir=folder / "prompts").source == "data-dir"
    assert load_suite("math_code_chat", limit=1).source == "bundled"
    assert [p.prompt_id for p in suite.prompts] == ["sums/0", "sums/x", "talk/0"]
    assert suite.prompts[1].turns == ("2 + 2?", "Sure?")
    assert suite.prompts[2].domain == "chat"


@pytest.mark.parametrize("named_first", [True, False])
def test_an_id_that_is_the_place_of_a_row_without_one_is_told(named_first: bool, folder: Path) -> None:
    """Rows without an id are called by their places, from 0."""
    rows: list[object] = [{"turns": ["Hi"]}, {"turns": ["Ho"]}, {"question_id": 1, "turns": ["Ha"]}]
    rows = [{"question_id": 1, "turns": ["Ha"]}, {"turns": ["Hi"]}] if named_first else rows
    write(folder / "prompts" / "talk.jsonl", rows)
    line, other = (2, 1) if named_first else (3, 2)
    with pytest.raises(InputError, match=f"line {line}: id 'talk/1' is that of line {other} too, .* give every row an id"):
        load_suite(str(folder))
    write(folder / "prompts" / "talk.jsonl", [{"id": 1, "turns": ["Ha"]}, {"id": 1, "turns": ["Ho"]}])
    with pytest.raises(InputError, match="line 2: id 'talk/1' stands in an earlier line too"):
        load_suite(str(folder))


def test_a_table_of_prompts_keeps_its_rules_and_commas(folder: Path) -> None:
    """What is left out of a drawn table of requests is text in one of prompts."""
    (folder / "prompts" / "talk.jsonl").unlink()
    (folder / "prompts" / "talk.jsonl").write_text('prompt\n"Hi,\n---\nthere, 1,5"\n')
    assert [p.turns for p in load_suite(str(folder)).prompts if p.task == "talk"] == [("Hi,\n---\nthere, 1,5",)]


def test_the_bundled_suite_is_complete_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    suite = load_suite("suites/math_code_chat")
    assert suite.content_hash == load_suite("math_code_chat").content_hash
    by_task = {t.name: [p for p in suite.prompts if p.task == t.name] for t in suite.file.tasks}
    assert len(by_task) == 9
    assert all(len(prompts) >= 8 for prompts in by_task.values())
    assert {t.domain for t in suite.file.tasks} == {"math", "code", "chat"}
    assert all(len(p.turns) == 2 for p in by_task["mt-bench"])


def test_the_hash_follows_content(folder: Path) -> None:
    before = load_suite(str(folder)).content_hash
    assert load_suite(str(folder)).content_hash == before
    assert load_suite(str(folder), limit=1).content_hash != before
    write(folder / "prompts" / "talk.jsonl", [{"turns": ["Hello"]}])
    assert load_suite(str(folder)).content_hash != before


def test_data_dir_and_limit(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for task in ("sums", "talk"):
        write(data / f"{task}.jsonl", [{"id": f"{task}/{i}", "turns": [f"q{i}"]} for i in range(5)])
    suite = load_suite(str(folder), data_dir=data, limit=2)
    assert suite.source == "data-dir"
    assert [p.prompt_id for p in suite.prompts] == ["sums/0", "sums/1", "talk/0", "talk/1"]


_SHARE_GPT = {"user": "human", "assistant": "gpt"}
SAID = [("user", "Hello?"), ("assistant", "Hi."), ("user", "More.")]
ROWS: dict[str, dict[str, object]] = {
    "turns": {"turns": ["Hello?", "More."]},
    "messages": {"messages": [{"role": role, "content": said} for role, said in SAID]},
    "parts": {"messages": [{"role": role, "content": [{"type": "text", "text": said}]} for role, said in SAID]},
    "ShareGPT": {"conversations": [{"from": _SHARE_GPT[r], "value": said} for r, said in SAID]},
    "quoted": {"conversations": [{"from": "gpt", "value": "?"}, *({"from": r, "value": said} for r, said in SAID)]},
    "SPEED-Bench": {
        "question_id": "q1",
        "category": "coding",
        "messages": [{"role": r, "content": said} for r, said in SAID],
    },
    "prompts": {"prompt": [{"role": role, "content": said} for role, said in SAID]},
}


@pytest.mark.parametrize("how", ["jsonl", "json", "jsonl.gz"])
@pytest.mark.parametrize("form", ROWS)
def test_prompts_in_any_form_say_the_same(form: str, how: str, folder: Path, tmp_path: Path) -> None:
    """Of a folder whose files are none of the suite's tasks, each is a task; a category is the domain of its row."""
    data = tmp_path / "data"
    data.mkdir()
    content = json.dumps([ROWS[form]], indent=1) if how == "json" else json.dumps(ROWS[form]) + "\r\n"
    (data / f"mine.{how}").write_bytes(gzip.compress(content.encode()) if how.endswith("gz") else content.encode())
    suite = load_suite(str(folder), data_dir=data)
    [prompt] = suite.prompts
    assert (prompt.task, prompt.turns, prompt.system) == ("mine", ("Hello?", "More."), "")
    assert (prompt.prompt_id, prompt.domain) == (("mine/q1", "coding") if form == "SPEED-Bench" else ("mine/0", "mine"))
    assert any("mine" in note for note in suite.notes)


def test_instructions_stay_and_what_cannot_be_asked_again_is_counted(folder: Path) -> None:
    told, tool = {"role": "system", "content": "Be brief."}, {"role": "tool", "content": "3"}
    asked = {"role": "user", "content": "Hello?"}
    rows = [{"messages": m} for m in ([told, asked], [asked, tool], [asked, told], [], [told])]
    write(folder / "prompts" / "sums.jsonl", rows)
    before = load_suite(str(folder), limit=1)
    [prompt] = [p for p in before.prompts if p.task == "sums"]
    assert prompt.opening == [told]
    note = " ".join(load_suite(str(folder)).notes)
    assert all(words in note for words in ("1 with tools", "1 with instructions", "2 without a user's turn"))
    write(folder / "prompts" / "sums.jsonl", [{"messages": [asked]}])
    assert load_suite(str(folder), limit=1).content_hash != before.content_hash


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "Hello"}, '"messages" must be a list'),
        ({"messages": [{"role": "user"}]}, "has no prompts"),
        ({"messages": [{"content": "a"}]}, "message 1: must be an object"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "1 with images"),
        ({"messages": [{"role": "user", "content": 3}]}, '"content" must be a text'),
        ({"conversations": [{"from": "human", "value": 3}]}, '"value" must be a text'),
        ({"prompt": 3}, '"turns" must be there'),
        ({"prompt": ""}, '"prompt" is empty'),
        ({"turns": ["a"], "category": "a\nb"}, "domain"),
        ({"turns": ["a"], "domain": "a\nb"}, "domain"),
    ],
)
def test_rows_that_are_no_conversations_are_named(row: dict[str, object], message: str, folder: Path) -> None:
    write(folder / "prompts" / "sums.jsonl", [row])
    with pytest.raises(InputError, match=message):
        load_suite(str(folder))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_hub_prompts_fill_templates_from_columns(folder: Path, tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]})
    file = tmp_path / f"part-0.{ending}"
    frame.write_parquet(file) if ending == "parquet" else frame.write_ndjson(file)
    text = SUITE.replace("FILE", str(tmp_path / f"part-*.{ending}"))
    (folder / "suite.yaml").write_text(text.replace("  - {name: talk, domain: chat}\n", ""))
    suite = load_suite(str(folder), source="hub", limit=2)
    assert [p.turns for p in suite.prompts] == [("1 + 4 = ?", "Sure?"), ("2 + 5 = ?", "Sure?")]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("suite.yaml", "name: [", r"suite\.yaml: not YAML"),
        ("suite.yaml", SUITE + "colour: red\n", "unknown field `colour`"),
        ("suite.yaml", "name: mine\nversion: one\ntasks: []\n", r"Expected `int`, got `str` - at `\$.version`"),
        ("suite.yaml", "name: mine\nversion: 1\ntasks: []\n", "at least one entry"),
        ("suite.yaml", SUITE + "generation: {top_p: 0}\n", "0 < top_p"),
        ("suite.yaml", SUITE + "generation: {temperature: 1.0e-40}\n", r"temperature: 0 \(greedy\) or at least 0.001"),
        ("suite.yaml", SUITE + "generation: {temperature: .nan}\n", "temperature: 0"),
        ("suite.yaml", SUITE + "generation: {max_new_tokens: 1}\n", "max_new_tokens ≥ 2 is needed, got 1"),
        ("suite.yaml", SUITE + "generation: {today: yesterday}\n", r"\$.generation.today"),
        ("prompts/sums.jsonl", '{"turns": ["a"]}\n{"turns": [\n', r"sums\.jsonl, line 2: is no JSON"),
        ("prompts/sums.jsonl", '{"turns": ["a"]}\n\n{"turn": ["a"]}\n', r'sums\.jsonl, line 3: "turns" must be'),
        ("prompts/sums.jsonl", '{"turns": [""]}\n', r"has no prompts .*without a user's turn"),
        ("prompts/sums.jsonl", '{"id": 1, "turns": ["a"]}\n{"id": 1, "turns": ["b"]}\n', "line 2: id 'sums/1'"),
        ("prompts/sums.jsonl", '{"turns": ["a"]}\n{"turns": ["cut \\ud83d here"]}\n', r"line 2: holds '\\ud83d', one half"),
        ("prompts/sums.jsonl", '{"id": "\\udc00", "turns": ["a"]}\n', r"line 1: holds '\\udc00', one half of a character"),
        ("prompts/sums.jsonl", "\n", "has no prompts"),
        ("prompts/sums.jsonl", None, r"sums\.jsonl: missing"),
    ],
)
def test_bad_files_are_named(folder: Path, file: str, content: str | None, message: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_suite(str(folder))


def test_a_file_that_holds_no_prompts_is_told_what_it_may_hold(tmp_path: Path) -> None:
    """As found: a program given as prompts had "fewer columns than the first", and a file that is not there no folder."""
    (tmp_path / "some.py").write_text("from a import b, c\nprint(b)\n")
    with pytest.raises(InputError, match=r'some\.py, line 2: has fewer columns .* lines of JSON.*"messages" \(role'):
        read_prompts([tmp_path / "some.py"])
    with pytest.raises(InputError, match=r"--prompts .*nothing\.jsonl: no such file$"):
        read_prompts([tmp_path / "nothing.jsonl"])


def test_prompts_that_a_published_file_leaves_out_are_no_prompts(tmp_path: Path) -> None:
    """SPEED-Bench has a sentence in place of others' texts, in half of its rows; ShareGPT and others have empty turns."""
    missing = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"
    rows = [{"question_id": i, "category": "math", "turns": [missing if i % 2 else f"What is {i} + 1?"]} for i in range(8)]
    rows += [{"question_id": 8, "category": "math", "turns": ["", "And then?"]}]
    (tmp_path / "qualitative.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = load_suite("math_code_chat", data_dir=tmp_path)
    assert [prompt.turns for prompt in suite.prompts] == [(f"What is {i} + 1?",) for i in (0, 2, 4, 6)] + [("And then?",)]
    assert any("4 whose text" in note for note in suite.notes)


def test_a_prompt_that_is_asked_twice_counts_once(tmp_path: Path) -> None:
    """Twelve times one text would be an interval of no width; a further turn makes another prompt."""
    rows = [{"id": f"p{i}", "turns": ["What is 3 + 4?"]} for i in range(12)]
    rows += [{"id": "p0", "turns": ["What is 3 + 4?"]}, {"id": "more", "turns": ["What is 3 + 4?", "And 5?"]}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = load_suite("math_code_chat", data_dir=tmp_path)
    assert [prompt.prompt_id.rpartition("/")[2] for prompt in suite.prompts] == ["p0", "more"]
    assert "prompts left out: 12 that say the same as an earlier one" in suite.notes
    few = load_suite("math_code_chat", data_dir=tmp_path, limit=2)
    assert len(few.prompts) == 2


def test_the_date_told_to_templates_is_a_setting(folder: Path) -> None:
    before = load_suite(str(folder))
    (folder / "suite.yaml").write_text(SUITE + "generation: {today: 2025-03-05}\n")
    after = load_suite(str(folder))
    assert (before.file.generation.today, after.file.generation.today) == (date(2024, 7, 26), date(2025, 3, 5))
    assert before.content_hash != after.content_hash


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bundled: math_code_chat"):
        load_suite("suites/nothing")
    with pytest.raises(InputError, match=r"has no suite\.yaml"):
        load_suite(str(tmp_path))
    (tmp_path / "suite.yaml").write_text("name: a\nversion: 1\ntasks: [{name: t, domain: d}]\n")
    with pytest.raises(InputError, match="names no hub file"):
        load_suite(str(tmp_path), source="hub")
    with pytest.raises(InputError, match=r"bundled: .*qwen3-4b, .*qwen3-8b, .*tiny"):
        load_pair("nothing")
    with pytest.raises(InputError, match="which has none, dspark, dflash, eagle3, mtp, ngram"):
        choose_drafters(load_pair("tiny"), ["medusa"])


def test_a_pair_may_name_the_target_of_a_bundled_one(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text("target: tiny\ndrafters: {ngram: ngram}\n")
    assert load_pair(str(tmp_path / "pair.yaml")).target == load_pair("tiny").target


def test_pairs_resolve_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text("target: ./target\ndrafters: {mine: ./drafter, ngram: ngram, hub: org/name}\n")
    pair = load_pair(str(tmp_path / "pair.yaml"))
    assert pair.target == str(tmp_path / "target")
    assert pair.drafters == {"mine": str(tmp_path / "drafter"), "ngram": "ngram", "hub": "org/name"}
    assert list(choose_drafters(pair, ["ngram"])) == ["none", "ngram"]
    assert pair.dtype == "auto"
    (tmp_path / "pair.yaml").write_text("target: ./target\ndrafters: {}\ncolour: red\n")
    with pytest.raises(InputError, match="unknown field `colour`"):
        load_pair(str(tmp_path / "pair.yaml"))
    for drafters in ("{none: x}", "{plain: none}"):
        (tmp_path / "pair.yaml").write_text(f"target: ./target\ndrafters: {drafters}\n")
        with pytest.raises(InputError, match="'none' is always there"):
            load_pair(str(tmp_path / "pair.yaml"))


def test_a_pair_keeps_the_template_that_its_target_is_asked_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its text, wherever it was named: it decides what is measured, and plans go to other machines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "base.jinja").write_text("{{ messages[0].content }}")
    for written, template in (("plain", "plain"), ("base.jinja", "{{ messages[0].content }}"), ("'{{ 1 }}'", "{{ 1 }}")):
        (tmp_path / "own" / "pair.yaml").write_text(f"target: tiny\ndrafters: {{}}\nchat_template: {written}\n")
        pair = load_pair("own/pair.yaml")
        assert pair.chat_template == template
        assert load_pair(pair) == pair
        assert load_pair(asked_pair("own/pair.yaml", chat_template="{{ 2 }}")[0]).chat_template == "{{ 2 }}"
    own, chosen = asked_pair("tiny", None, ["mtp"], "own/base.jinja")
    assert chosen == ["mtp"]
    assert own == msgspec.structs.replace(load_pair("tiny"), chat_template="{{ messages[0].content }}")
    assert "chat_template" not in msgspec.to_builtins(load_pair("tiny"))  # plans are named as before there was one


def test_a_bundled_target_is_the_same_wherever_it_is_named(tmp_path: Path) -> None:
    """With its numeric type, which decides what is measured, unless the file says another."""
    tiny, file = load_pair("tiny"), tmp_path / "pair.yaml"
    file.write_text("target: tiny\ndrafters: {mine: ./drafter}\n")
    assert load_pair(str(file)) == Pair(tiny.target, {"mine": str(tmp_path / "drafter")}, dtype="float32")
    file.write_text("target: tiny\ndrafters: {}\ndtype: auto\ndevice: cpu\n")
    assert load_pair(str(file)) == Pair(tiny.target, {}, dtype="auto", device="cpu")


@pytest.mark.parametrize("template", ["", ".", "nowhere.jinja", "Plain", "empty.jinja", "weights.bin", "x" * 5000, "\udcff"])
def test_what_is_no_template_is_refused_at_once(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jinja").write_text("Answer the question.")
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"^--chat-template .*Jinja template") as refused:
        asked_pair("tiny", chat_template=template)
    assert len(str(refused.value)) < 300
    if template.isprintable():
        (tmp_path / "pair.yaml").write_text(json.dumps({"target": "tiny", "drafters": {}, "chat_template": template}))
        with pytest.raises(InputError, match=r"^pair.yaml: chat_template .*Jinja template"):
            load_pair("pair.yaml")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a\\b", "a\nb", " ", "a\x00b"])
def test_a_task_names_no_file_outside_of_its_suite(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name"):
        Task(name, "math")
    (tmp_path / "suite.yaml").write_text(json.dumps({"name": "s", "version": 1, "tasks": [{"name": name, "domain": "m"}]}))
    with pytest.raises(InputError, match=r"suite\.yaml") as refused:
        load_suite(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_pair_may_be_named_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "a,b=c").mkdir()
    monkeypatch.chdir(tmp_path)
    made, chosen = asked_pair("tiny", "./target", ["mine=a,b=c", "hub=owner/model", "ngram"])
    own = {"mine": str(tmp_path / "a,b=c"), "hub": "owner/model", "ngram": "ngram"}
    assert made == Pair(str(tmp_path / "target"), own)
    assert chosen == ["mine", "hub", "ngram"]
    assert (load_pair(made), pair_name(made), pair_name("some/mine.yaml")) == (made, "target", "mine")
    assert asked_pair("qwen3-4b", "tiny") == (Pair(load_pair("tiny").target, {}, dtype="float32"), None)
    assert pair_name(asked_pair("qwen3-4b", "tiny")[0]) == "tiny"


def test_one_drafter_more_stands_beside_those_of_a_pair() -> None:
    """Names alone still filter, and old against new goes into one recording."""
    assert asked_pair("tiny", None, ["dspark,eagle3"]) == ("tiny", ["dspark", "eagle3"])
    assert asked_pair("tiny") == ("tiny", None)
    tiny = load_pair("tiny")
    made, chosen = asked_pair("tiny", None, ["dspark", f"new={tiny.drafters['dspark']}"])
    assert isinstance(made, Pair)
    assert chosen == ["dspark", "new"]
    assert (made.target, made.dtype) == (tiny.target, tiny.dtype)
    assert list(choose_drafters(made, chosen)) == ["none", "dspark", "new"]


@pytest.mark.parametrize(
    ("target", "drafters", "message"),
    [
        ("./nowhere", None, "--target ./nowhere: no such folder"),
        ("x" * 5000, None, "no such folder"),
        ("tiny", ["mine=nowhere"], "--drafter mine=nowhere: no such folder"),
        ("tiny", ["mine="], "--drafter mine=: no such folder"),
        ("tiny", ["=owner/model"], "is no name"),
        ("tiny", ["none=owner/model"], "baseline"),
        ("tiny", ["eagle3"], "drafter eagle3: not in this pair"),
        ("tiny", ["a=owner/model", "a=owner/other"], "drafter a: two drafters"),
        (None, ["dspark=owner/model"], "drafter dspark: two drafters"),
    ],
)
def test_what_a_line_cannot_mean_is_refused(target: str | None, drafters: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked_pair("tiny", target, drafters)


def test_every_bundled_pair_loads() -> None:
    """Those whose checkpoints were never at hand say so."""
    for file in BUNDLED_PAIRS.glob("*.yaml"):
        pair = load_pair(file.stem)
        assert pair.drafters
        assert all(source == "ngram" or "/" in source for source in pair.drafters.values())
