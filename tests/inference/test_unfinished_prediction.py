import json
import multiprocessing
import os
import shutil

import pyarrow as pa
import pytest

from radrecipes import owned_folder
from radrecipes.errors import InputError, OutputInUseError
from radrecipes.inference.prediction_stream import write_answers
from radrecipes.inference.unfinished_prediction import UnfinishedPrediction

STATE = {"input": "abc", "--batch-size": 32}


def table(number):
    return pa.table({"id": [str(number)], "label": ["CT Head"]})


def assemble(work, chunks):
    write_answers([work.part(number) for number in range(chunks)], work.assembling(work.output), ".csv", "label")


def test_chunks_of_a_killed_process_are_there_in_the_next_and_the_folder_goes_at_the_end(tmp_path):
    first = UnfinishedPrediction(tmp_path / "out.csv")
    with pytest.raises(ZeroDivisionError), first.begun(STATE, False):
        first.save(1, table(1))
        raise ZeroDivisionError
    (first.folder / ".000000000.parquet").write_bytes(b"PAR1 cut in the middle of")
    second = UnfinishedPrediction(tmp_path / "out.csv")
    second.check_output()
    second.check_state(STATE)
    with second.begun(STATE, False):
        assert second.has(1) and not second.has(0)
        second.save(0, table(0))
        assemble(second, 2)
        assert not second.output.exists()
        second.finish([second.output])
    assert os.listdir(tmp_path) == ["out.csv"]
    assert second.output.read_text() == "id,label\n0,CT Head\n1,CT Head\n"


def test_work_of_another_prediction_is_refused_or_discarded_on_request(tmp_path):
    work = UnfinishedPrediction(tmp_path / "out.csv")
    with work.begun(STATE, False):
        work.save(0, table(0))
    other = {**STATE, "--batch-size": 16}
    with pytest.raises(InputError, match=r"out.csv.unfinished: .*another --batch-size\); .*--restart"):
        work.check_state(other)
    with work.begun(other, True):
        assert not work.has(0)
    work.check_state(other)
    (work.folder / "state.json").write_text('{"input": ')
    with pytest.raises(InputError, match=r"state.json is broken.*--restart"):
        work.check_state(other)


def test_an_output_that_is_there_is_never_touched(tmp_path):
    work = UnfinishedPrediction(tmp_path / "out.csv")
    with work.begun(STATE, False):
        work.save(0, table(0))
    work.output.write_text("mine")
    with pytest.raises(InputError, match=r"out.csv: the output exists already"):
        work.check_output()
    assert work.has(0) and work.output.read_text() == "mine"


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_last_renames_loses_and_leaves_nothing(tmp_path, monkeypatch, renames):
    work = UnfinishedPrediction(tmp_path / "out.csv")
    done = []

    def kill_after(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        os.rename(path, target)

    def complete():
        with work.begun(STATE, False):
            work.save(0, table(0))
            assemble(work, 1)
            work.assembling(work.rejects).write_text("line,reason\n")
            monkeypatch.setattr("pathlib.Path.replace", kill_after)
            monkeypatch.setattr("shutil.rmtree", lambda *args: kill_after(None, None))
            work.finish([work.rejects, work.output])

    with pytest.raises(KeyboardInterrupt):
        complete()
    monkeypatch.undo()
    if renames < 2:
        work.check_output()
        work.check_state(STATE)
        with work.begun(STATE, False):
            assert work.has(0)
            assemble(work, 1)
            work.assembling(work.rejects).write_text("line,reason\n")
            work.finish([work.rejects, work.output])
    else:
        with pytest.raises(InputError, match="the output exists already"):
            work.check_output()
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.rejects.csv"]
    assert "CT Head" in work.output.read_text()


def test_files_of_others_are_refused(tmp_path):
    work = UnfinishedPrediction(tmp_path / "out.csv")
    work.rejects.write_text("mine")
    with pytest.raises(InputError, match=r"out.rejects.csv: .*exists already"):
        work.check_output()
    work.rejects.unlink()
    work.folder.mkdir()
    work.check_output()
    (work.folder / "letter.txt").write_text("mine")
    for started, message in ((False, "did not write this folder"), (True, "contains 'letter.txt', which radrecipes")):
        if started:
            owned_folder.mark(work.folder, "prediction")
        with pytest.raises(InputError, match=rf"out.csv.unfinished: .*{message}"):
            work.check_output()
    shutil.rmtree(work.folder)
    work.folder.write_text("mine")
    with pytest.raises(InputError, match=r"out.csv.unfinished: is a file"):
        work.check_output()


def test_outputs_that_differ_in_their_ending_do_not_overwrite_each_others_rejects(tmp_path):
    first, second = (UnfinishedPrediction(tmp_path / name) for name in ("out.csv", "out.jsonl"))
    for work in (first, second):
        work.check_output()  # neither has a rejects file yet
        with work.begun(STATE, False):
            work.save(0, table(0))
            assemble(work, 1)
            work.assembling(work.rejects).write_text(f"of {work.output.name}")
    with first.begun(STATE, False):
        first.finish([first.rejects, first.output])
    with second.begun(STATE, False), pytest.raises(InputError, match=r"out.rejects.csv: .*exists already"):
        second.finish([second.rejects, second.output])
    with pytest.raises(InputError, match=r"out.rejects.csv: .*exists already"):
        second.check_output()
    assert second.rejects.read_text() == "of out.csv" and second.has(0) and not second.output.exists()


def hold(output, held, end):
    with UnfinishedPrediction(output).begun(STATE, False):
        held.set()
        end.wait(30)


def test_two_processes_cannot_write_one_output(tmp_path):
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out.csv", held, end))
    process.start()
    try:
        assert held.wait(30)
        work = UnfinishedPrediction(tmp_path / "out.csv")
        with pytest.raises(OutputInUseError, match=r"out.csv: another process is writing it"), work.begun(STATE, True):
            pass
        assert json.loads((work.folder / "state.json").read_text()) == STATE
    finally:
        end.set()
        process.join(30)
