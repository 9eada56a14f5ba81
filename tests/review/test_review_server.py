"""The command as a process: who may read its page, and several processes and kills on one file."""

import csv
import stat
import threading
import urllib.error
import urllib.request
from collections import Counter

import pytest
from conftest import REPOSITORY, run_script
from page_reader import Page
from review_server import LABELS, ReviewServer, write_answers


def test_only_the_printed_address_opens_the_page_and_nothing_leaves_this_machine(tmp_path):
    write_answers(tmp_path / "answers.csv", rows=3, automatic=1, A2="<script>alert(1)</script> knee")
    with ReviewServer("answers.csv", "--reviewer", "</script><b>", "--sample", "1", cwd=tmp_path) as server:
        assert "token" not in server.page.url and server.page.headers["cache-control"] == "no-store"
        policy, html = server.page.headers["content-security-policy"], server.page.read().decode()
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "knee" not in html and "<b>" not in html and not [a for _, a in Page(html).elements if "http" in str(a)]
        stranger = urllib.request.build_opener()
        for path in ("/", "/?token=", "/?token=wrong", "/?token=é".replace("é", "%C3%A9")):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                stranger.open(server.url + path)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            stranger.open(urllib.request.Request(f"{server.url}/open", b'{"window": "x"}'))
        assert server.post("open", headers={"origin": "http://127.0.0.1:1"})[0] == 403
        assert server.post("open", headers={"host": "evil.example"})[0] == 400
        for action, values in (
            ("decide", {"id": "A0", "label": "No such"}), ("decide", {"id": "B", "label": LABELS[0]}), ("undo", {"id": []}),
            ("none", {}), ("open", {"window": 5}), ("open", {"window": "x" * 70_000}),
        ):  # fmt: skip
            assert server.post(action, **values)[0] == 400, action
        with pytest.raises(urllib.error.HTTPError, match="400"):
            server.opener.open(urllib.request.Request(f"{server.url}/open", b"[" * 60_000))
        status, view = server.post("open", headers={"origin": server.url}, place=99)
        assert status == 200 and view["row"]["id"] == "A0"
        server.post("decide", id="A0", label=LABELS[0])
        code, out, err = server.stop()
    assert (code, err) == (0, "") and out == "1 reviewed; decisions are in corrections.csv\n"
    assert "knee" not in out + "".join(server.said)
    for name in ("corrections.csv", "corrections.csv.journal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.slow
def test_two_processes_one_of_them_killed_review_every_row_once(tmp_path):
    write_answers(tmp_path / "answers.csv", rows=60, automatic=0)
    confirmed, refused, lost = [], [], set()

    def work(server, window):
        try:
            view = server.post("open", window)[1]
            while row := view["row"]:
                status, view = server.post("decide", window, id=row["id"], label=LABELS[0], place=view["place"])
                (confirmed if status == 200 else refused).append((row["id"], view))
        except (OSError, ValueError):
            lost.add(server)

    with ReviewServer("answers.csv", "--reviewer", "one", cwd=tmp_path) as kept:
        killed = ReviewServer("answers.csv", "--reviewer", "two", cwd=tmp_path)
        threads = [
            threading.Thread(target=work, args=(server, f"w{n}"))
            for n, server in enumerate((kept, killed, kept, killed))
        ]
        # The one that is killed begins, so that it has stored something.
        for starting, enough in ((threads[1::2], 5), (threads[::2], 20)):
            for thread in starting:
                thread.start()
            while len(confirmed) < enough:
                threads[1].join(0.01)
        killed.kill()
        for thread in threads:
            thread.join()
        assert lost == {killed} and not refused and max(Counter(row for row, _ in confirmed).values()) == 1
        # What the killed process held is shown again; what it confirmed is stored.
        kept.post("close", "w1")
        kept.post("close", "w3")
        assert kept.decide_all(lambda row: LABELS[1])["reviewed"] == 60
    with (tmp_path / "corrections.csv").open(encoding="utf-8", newline="") as stream:
        stored = {row["id"]: row for row in csv.DictReader(stream)}
    assert len(stored) == 60 and {row for row, _ in confirmed} <= stored.keys()
    assert all(stored[row]["label"] == LABELS[0] for row, _ in confirmed)
    assert {"one", "two"} == {row["reviewer"] for row in stored.values()}


@pytest.mark.parametrize("option", ["--text-column", "--group-column", "--delimiter"])
def test_an_option_of_a_table_that_is_not_named_is_refused(tmp_path, option):
    write_answers(tmp_path / "answers.csv", text=False)
    done = run_script(tmp_path, str(REPOSITORY / "scripts" / "review.py"), "answers.csv", option, "x")
    said = f"error: {option} has no effect without --input; remove it, or name the table\n"
    assert (done.returncode, done.stderr) == (2, said)
