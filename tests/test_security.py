"""What others may give us (files, names, texts, runs of a store) and what must not leave us:
secrets, open ports.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import pickle
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import training as made
from browser import chromium, needed
from click.testing import CliRunner
from conftest import REPO, SWEEP, TINY, Folder
from made_up import VAL, Store, network, run, runs
from test_tracking import Story, mlflow_tracker, project

from suite.analysis.predictions import Predictions
from suite.config import load
from suite.console.output import exit_codes
from suite.core.cells import escape_formula
from suite.core.errors import EnvironmentProblem, Problem, TrialError, UsageError
from suite.core.redaction import WORD, redacted
from suite.data.cache import cached
from suite.execution import ray_session
from suite.models import Prefix
from suite.report.content import content
from suite.report.files import folder_name, publish
from suite.report.runs import Rules
from suite.report.tables import plain, tex
from suite.storage import checkpoint
from suite.storage.journal import Journal, read
from suite.system import environment
from suite.tracking import default_artifacts, default_uri, download, read_images, resolve_weights
from suite.training import feature_cache

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg|ray).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch|ray).*"),
]


# ---- code in files -------------------------------------------------------------------------------


class Malice:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that must not be there in the end; that Malice would make it is tried first."""
    mark = tmp_path / "pwned"
    pickle.loads(pickle.dumps(Malice(mark)))
    assert mark.exists()
    mark.unlink()
    yield mark
    assert not mark.exists(), "code of the file was run"


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
}


def violations(text: str) -> list[str]:
    """What a module does that could run code of a file which it reads."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [
                name.name for name in node.names if name.name.partition(".")[0] in FORBIDDEN_MODULES
            ]
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES
        ):
            found += [name.name for name in node.names if name.name != "UnpicklingError"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in FORBIDDEN_CALLS:
                found.append(name)
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if (
                given.get("weights_only", "True") != "True"
                or given.get("allow_pickle", "False") != "False"
            ):
                found.append(f"{name} takes pickles")
            if given.get("shell", "False") != "False":
                found.append(f"{name} with a shell")
    return found


def test_no_code_of_a_file_is_ever_run() -> None:
    """The CIFAR batches, which torchvision unpickles after their checksum, are the only pickles:
    test_named_data.
    """
    files = sorted((REPO / "suite").rglob("*.py"))
    assert len(files) > 100
    assert {str(file): found for file in files if (found := violations(file.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "import cloudpickle as c", "from pickle import loads", "import joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)", "eval(text)", "subprocess.run(text, shell=True)",
        "pd.read_pickle(path)",
    ],
)  # fmt: skip
def test_the_gate_closes(text: str) -> None:
    assert violations(text)


def test_a_checkpoint_that_would_run_code_is_refused(mark: Path, tmp_path: Path) -> None:
    """Its manifest verifies: whoever can write the folder can write that too."""
    trial, folder = made.trial(), tmp_path / "trial"
    made.finish(made.training(trial, folder)).save()
    (newest,) = [
        path for path in (folder / "checkpoints").iterdir() if path.name.startswith("e00002")
    ]
    file = newest / "last.pt"
    torch.save({"records": [], "evil": Malice(mark)}, file)
    manifest = json.loads((newest / checkpoint.MANIFEST).read_text())
    manifest["files"]["last.pt"] = {"size": file.stat().st_size, "sha256": checkpoint.digest(file)}
    (newest / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TrialError, match=r"last\.pt is refused.*could run code"):
        made.training(trial, folder)


def test_predictions_and_images_that_would_run_code_are_left_out(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = np.array([Malice(mark)], dtype=object)
    store = Store(tmp_path)
    store.stand_in(monkeypatch)
    store.add("base", 0, network(0, 1.0))
    bad = store.add("base", 1, None)
    store.put(bad.run_id, "predictions.npz", {"index": evil, "labels": evil, "logits": evil})
    with pytest.raises(ValueError, match=r"predictions\.npz cannot be read: Object arrays"):
        Predictions.read(tmp_path / bad.run_id / "predictions.npz")
    store.put(
        "p", "test_images.npz", {"images": evil, "index": evil, "labels": evil, "classes": evil}
    )
    from suite.report import error_analysis

    found = error_analysis.section(store.runs, "x", "base", "base")
    assert found is not None and not found.tiles


def test_a_cache_that_would_run_code_is_made_again(mark: Path, tmp_path: Path) -> None:
    def spoil(file: Path) -> None:
        np.save(file, np.array([Malice(mark)], dtype=object), allow_pickle=True)

    first = cached(tmp_path, "own", "here", lambda folder: made.images())
    (entry,) = [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    meta = json.loads((entry / "meta.json").read_text())
    spoil(entry / "train_images.npy")
    meta["bytes"]["train_images"] = (entry / "train_images.npy").stat().st_size
    (entry / "meta.json").write_text(json.dumps(meta))
    again = cached(tmp_path, "own", "here", lambda folder: made.images())
    assert again.digest == first.digest and again.train_images.dtype == np.uint8

    def make() -> tuple[Prefix, dict[str, torch.Tensor]]:
        return Prefix(("conv1",)), {"train": torch.ones(4, 2)}

    feature_cache.load_or_make(tmp_path, "key", make)
    spoil(tmp_path / "features" / "key" / "train.npy")
    assert torch.equal(
        feature_cache.load_or_make(tmp_path, "key", make).parts["train"], torch.ones(4, 2)
    )


# ---- versions ------------------------------------------------------------------------------------


def test_what_is_pinned_and_installed_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = dict(
        re.findall(
            r"^([a-z-]+)(?:\[\w+\])?==([\d.]+)",
            (REPO / "requirements.txt").read_text(),
            re.MULTILINE,
        )
    )
    for name, floor in environment.FLOORS.items():
        assert environment._numbers(pinned[name]) >= floor
        assert environment._numbers(metadata.version(name)) >= floor
    environment.check_floors()
    old = {"torch": "2.9.1+cpu", "mlflow": "3.10.0", "ray": "2.60.0"}
    monkeypatch.setattr(environment, "_version", old.__getitem__)
    with pytest.raises(EnvironmentProblem) as told:
        environment.check_floors()
    assert [problem.rule.partition(",")[0] for problem in told.value.problems] == [
        "torch must be 2.10 or later", "mlflow must be 3.11 or later",
    ]  # fmt: skip


def test_a_sweep_and_a_recall_with_old_packages_do_not_begin(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suite import restore
    from suite.sweep import api

    monkeypatch.chdir(folder.path)
    folder.write()
    monkeypatch.setattr(environment, "_version", lambda name: "1.0")
    for begin in (lambda: api.run("sweep.yaml"), lambda: restore.restore("sqlite:///none.db", "x")):
        with pytest.raises(EnvironmentProblem, match=r"torch must be 2\.10 or later, got 1\.0"):
            begin()


# ---- names that become paths ---------------------------------------------------------------------

WAYS_OUT = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "x/y",
    "..\\x",
    "x\x00y",
    ".hidden",
    "~root",
    "x\n",
    "C:x",
    "-rf",
    "",
]


@pytest.mark.parametrize("name", WAYS_OUT)
def test_a_sweeps_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(json.dumps(SWEEP | {"name": name}))
    with pytest.raises(UsageError, match="name"):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", WAYS_OUT)
def test_a_foreign_sweeps_report_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    place = (tmp_path / folder_name(name)).resolve()
    assert place.parent == tmp_path and not place.name.startswith(".")


def test_arms_and_classes_of_any_name_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "store").mkdir()
    store.stand_in(monkeypatch)
    trials = [
        run(arm, seed) for arm in ("base", "../../x", "/etc/y", "a/b\\c") for seed in range(2)
    ]
    page = publish(content(runs(*trials), Rules(VAL)), tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out")
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert {path.parts[0] for path in written} == {page.parent.name}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "store"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """A store on this machine with one trial: its address, the trial's run, the folder of that
    run's files.
    """
    folder = tmp_path_factory.mktemp("kept")
    uri = default_uri("sqlite:///mlflow.db", folder)
    (folder / "best.pt").write_bytes(b"weights")
    story = Story().launch("t1").trial("t1").start("t1")
    story.add("file", id="t1", path="best.pt", folder="checkpoints")
    tracker = mlflow_tracker(uri, "kept", folder)
    project(tracker, story.end("t1").close().entries, folder / "cursor")
    run_id = tracker.run_id("t1")
    assert run_id is not None
    place = default_artifacts(uri)
    assert place is not None
    return uri, run_id, place / "kept" / run_id / "artifacts"


@pytest.mark.parametrize(
    "path", ["../../../secret.txt", "checkpoints/../../../../secret.txt", "/etc/passwd", "%2e%2e/x"]
)
def test_a_runs_files_are_those_below_it(
    path: str, kept: tuple[str, str, Path], tmp_path: Path
) -> None:
    uri, run_id, _ = kept
    (Path(uri.removeprefix("sqlite:///")).parent / "secret.txt").write_text("secret")
    for dst in (None, tmp_path):
        with pytest.raises(EnvironmentProblem, match="no artifact"):
            download(uri, run_id, path, dst)
    with pytest.raises(EnvironmentProblem, match="no artifact"):
        resolve_weights(uri, f"runs:/{run_id}/{path.lstrip('/')}")
    assert not list(tmp_path.iterdir())


def test_a_link_among_a_runs_files_shows_nothing_else(
    kept: tuple[str, str, Path], tmp_path: Path
) -> None:
    uri, run_id, place = kept
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "activations+step+0+timestamp+1+x.png").write_bytes(b"private")
    for name in ("images", "predictions.npz", "deep"):
        target = place / name
        if name == "deep":
            target.mkdir()
            target = target / "link"
        target.symlink_to(
            secret if name == "images" else secret / "activations+step+0+timestamp+1+x.png"
        )
    try:
        for name in ("images", "predictions.npz", "deep"):
            for dst in (None, tmp_path / "to"):
                with pytest.raises(EnvironmentProblem, match=f"no artifact {name}.*leads out"):
                    download(uri, run_id, name, dst)
        with pytest.raises(EnvironmentProblem, match="leads out"):
            read_images(uri, run_id, "activations")
        assert download(uri, run_id, "checkpoints/best.pt").read_bytes() == b"weights"
    finally:
        for path in (place / "images", place / "predictions.npz", place / "deep" / "link"):
            path.unlink()


def test_a_bomb_in_a_runs_config_is_refused(kept: tuple[str, str, Path]) -> None:
    from suite.restore import restore

    uri, run_id, place = kept
    good = (place / "config.yaml").read_bytes()
    lines = [
        f"b{number}: &b{number} [{', '.join([f'*b{number - 1}'] * 9)}]\n" for number in range(1, 9)
    ]
    try:
        for text in (
            "b0: &b0 [1, 1]\n" + "".join(lines),
            "!!python/object/apply:os.system [ls]\n",
            "[" * 5000,
        ):
            (place / "config.yaml").write_text(text)
            with pytest.raises(EnvironmentProblem, match=r"config\.yaml"):
                restore(uri, run_id)
    finally:
        (place / "config.yaml").write_bytes(good)


# ---- texts that want to be something else --------------------------------------------------------

HIT = "window.hit=1"
PAYLOADS = [
    f"<script>{HIT}</script>",
    f'"><img src=x onerror={HIT}>',
    f"'><svg onload={HIT}>",
    f"`</title><script>{HIT}</script>`",
    f"</style><script>{HIT}</script>",
    f"<a href=javascript:{HIT}>x</a>",
    f"{{{{7*7}}}}{{% include 'x' %}}<b onclick={HIT}>",
    f"<iframe srcdoc='<script>parent.{HIT}</script>'>",
    f'" onmouseover="{HIT}" style="position:fixed;inset:0',
    f"<meta http-equiv=refresh content='0;url=javascript:{HIT}'>",
    f"--><script>{HIT}</script><!--",
    f"&lt;script&gt;{HIT}&lt;/script&gt;<base href=//evil.example>",
]
FORMULAS = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"]
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def poisoned(store: Store, texts: list[str]) -> Any:
    """A report with each text as arm, setting, value, class, reason, description, command,
    commit, and as its name.
    """
    trials = []
    for number, (arm, text) in enumerate(zip(["base", *texts], [*texts, texts[0]], strict=True)):
        for seed in range(2):  # the figures depend on the name that a run is made with
            one = run("m" * (number + 1), seed, settings=json.dumps({text: text}))
            tags = one.tags | {"suite.arm": arm, "suite.baseline": str(arm == "base").lower()}
            trials.append(
                replace(one, arm=arm, trial=f"{arm}{seed}", name=f"{text} seed={seed}", tags=tags)
            )
    trials += [run(text, 2, status="failed", epochs=0, reason=text) for text in texts]
    every = " ".join(texts)
    found = runs(
        *trials,
        description=every,
        classes=json.dumps(texts[:3]),
        command=every,
        version=every,
        status="failed",
    )
    found = replace(found, sweep=texts[3], parent=replace(found.parent, tags=found.parent.tags | {
        "mlflow.source.git.commit": every}))  # fmt: skip
    made_up = content(
        found,
        Rules(VAL),
        {"git": {"commit": every, "diff": every}, "python": every, "platform": every},
    )
    for seed in range(2):
        for arm in ("base", texts[0]):
            store.add(arm, seed, network(seed, 1.0 if arm == "base" else 1.5))
    index = np.arange(0, 600, 2)
    store.put(
        "p",
        "test_images.npz",
        {
            "images": np.zeros((300, 8, 8, 3), np.uint8),
            "index": index,
            "labels": np.zeros(300),
            "classes": np.array(texts[:3]),
        },
    )
    from suite.report import error_analysis

    return replace(made_up, errors=error_analysis.section(store.runs, "x", "base", texts[0]))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page of a poisoned sweep, and of one with harmless texts in the same places."""
    pages = []
    for texts in (PAYLOADS, [f"harmless{number}" for number in range(len(PAYLOADS))]):
        folder = tmp_path_factory.mktemp("report")
        with pytest.MonkeyPatch.context() as patch:
            store = Store(folder)
            store.stand_in(patch)
            pages.append(publish(poisoned(store, texts), folder / "out"))
    return pages[0], pages[1]


@pytest.mark.browser
@needed
def test_no_text_becomes_part_of_the_page(reports: tuple[Path, Path]) -> None:
    shape = "[...document.querySelectorAll('*')].map(element => element.localName).join(' ')"
    names = (
        "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => "
        "n.startsWith('on'))"
    )
    with chromium() as browser:
        shapes = []
        for file in reports:
            page = browser.new_context(offline=True).new_page()
            told: list[str] = []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("dialog", lambda dialog, told=told: told.append("a script ran"))
            page.goto(file.as_uri())
            shapes.append(page.evaluate(shape))
            for element in page.query_selector_all("th, td, h1, dd, li")[:200]:
                element.dispatch_event("mouseover")
            assert page.evaluate("window.hit") is None and told == []
            assert page.evaluate(names) == []
            assert page.url == file.as_uri()
        assert shapes[0] == shapes[1] and len(shapes[0].split()) > 300, (
            "not one element more or less"
        )
        text = page.evaluate("document.body.innerText")
        assert "harmless7" in text


@pytest.mark.browser
@needed
def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """The control: most of these texts do run where a page takes them as they are."""
    ran = []
    with chromium() as browser:
        for number, payload in enumerate(PAYLOADS):
            file = tmp_path / f"{number}.html"
            file.write_text(f'<title>x</title><p title="{payload}">{payload}</p>')
            page = browser.new_context(offline=True).new_page()
            page.goto(file.as_uri())
            for element in page.query_selector_all("b, p, a"):
                element.dispatch_event("mouseover")
                element.dispatch_event("click")
            ran.append(page.evaluate("window.hit") == 1)
    assert sum(ran) >= 8, ran


def test_the_page_allows_no_script_and_no_address(reports: tuple[Path, Path]) -> None:
    text = reports[0].read_text()
    assert re.findall(r'Content-Security-Policy" content="([^"]*)"', text) == [POLICY]
    assert text.index("Content-Security-Policy") < text.index("<title>")
    assert not re.search(
        r"<script|<iframe|<link|<base|<object|<embed|<form|javascript:[^&]*\"", text
    )
    for file in reports[0].parent.rglob("*.svg"):
        assert not re.search(
            rb"<script|<[a-z][^>]*\son\w+=|<foreignObject|<a\b", file.read_bytes()
        ), file.name


def test_no_text_becomes_markdown_or_latex(reports: tuple[Path, Path]) -> None:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    pages = [reader.render((page.parent / "report.md").read_text()) for page in reports]
    tags = [re.findall(r"<(\w+)", page) for page in pages]
    assert tags[0] == tags[1] and len(tags[0]) > 100, "not one element more or less"
    allowed = re.compile(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$(?:\\pm|\\times|-)\$|\{[][]\}")
    for payload in [*PAYLOADS, r"\input{/etc/passwd}", r"\write18{rm}", "a&b%c$d#e_f{g}~^", "\\"]:
        assert not re.search(r"[\\&%$#_^~]", allowed.sub("", tex(payload))), payload
        assert not re.search("<[a-z]", plain(payload).replace("&lt;", "")), payload


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    trials = [run(arm, seed, reason=arm) for arm in ["base", *FORMULAS] for seed in range(2)]
    page = publish(content(runs(*trials), Rules(VAL)), tmp_path)
    for name in ("results.csv", "arms.csv"):
        for row in csv.reader(io.StringIO((page.parent / name).read_text(), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), (name, cell)
                assert not cell.startswith("-") or float(cell) <= 0, (name, cell)
    escaped = ["'" + text.replace("\r", "\n") for text in FORMULAS]
    assert [escape_formula(text) for text in FORMULAS] == escaped and escape_formula(-1.5) == -1.5


def test_file_names_are_no_formulas_in_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from suite import predict, restore

    class Known:
        def trained(self, checkpoint: Path | None) -> restore.Trained:
            network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
            return restore.Trained(network, ("=cmd()", "dog"), 8, 1)  # type: ignore[arg-type]

    monkeypatch.setattr(restore, "restore", lambda uri, reference: Known())
    monkeypatch.chdir(tmp_path)
    Path("=x").mkdir()
    Image.new("RGB", (8, 8)).save("=x/=1+1.png")
    rows = list(predict.predict("x", "run", Path("=x")))
    assert rows[0] == ["file", "class", "'=cmd()", "dog"] and rows[1][0] == "'=x/=1+1.png"
    assert rows[1][1] in ("'=cmd()", "dog")


# ---- secrets -------------------------------------------------------------------------------------

SECRETS = [
    ("https://ann:pw@host/x", f"https://{WORD}@host/x"),
    ("/a/https:/ann:p@ss@host/x.pth", f"/a/https:/{WORD}@host/x.pth"),  # as pathlib writes it
    ("https://ghp_x@github.com/x", f"https://{WORD}@github.com/x"),
    ("see postgresql://ann:pw@db/x and http://s/", f"see postgresql://{WORD}@db/x and http://s/"),
    ("password=hunter2x", f"password={WORD}"),
    ("api_key: 'abcdef'", f"api_key: '{WORD}'"),
    ('{"api_key": "abcd"}', f'{{"api_key": "{WORD}"}}'),
    ("DB_PASSWORD: s3cr3t-x", f"DB_PASSWORD: {WORD}"),
    ("see AKIAIOSFODNN7EXAMPLE now", f"see {WORD} now"),
    ("Authorization: Bearer abcdefghijkl.mnop", f"Authorization: Bearer {WORD}"),
    ("http://h/x?token=abc123&y=1", f"http://h/x?token={WORD}&y=1"),
    ('client_secret = "qqqqqq"', f'client_secret = "{WORD}"'),
    ("hf_" + "a1B2" * 6, WORD),
    ("x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- y", f"x {WORD} y"),
    ("got tok-canary-1!", f"got {WORD}!"),
    ("pw pa$sword of the database", f"pw {WORD} of the database"),
]
HARMLESS = [
    "val/acc",
    "ssh://git@github.com/x",
    "runs:/abc/checkpoints/best.pt",
    "models:/x@champion",
    "tokens=128",
    "class_token=learned",
    "The secret: self-attention",
    "The secret: resnet18",
    "key: value",
    "sort_key=val/acc5",
    "password = getpass.getpass()",
    "password=os.environ['X']",
    "lr=0.05 seed=0",
    "us-east-1",
    "a@b.c",
    "secret=None",
    "http://host:5000/a@b",
    "mlflow ui --backend-store-uri sqlite:////x/y.db",
    "secret: {model.weights: none}",
    "augment: crop+flip",
    "api_key=args.key",
    "a7f3" * 16,
    "weights: ../resnet18-f37072fd.pth",
    "default",
    "3e-4",
]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    for name, value in {
        "MY_TOKEN": "tok-canary-1", "SORT_KEY": "val/acc", "AWS_REGION": "us-east-1",
        "AWS_PROFILE": "default",
        "DB_URL": "postgresql://u:pa%24sword@h/db", "CACHE_KEY": "3e-4", "TLS_KEY": str(key),
        "SHORT_TOKEN": "a@b.c",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("text", "wanted"), SECRETS)
@pytest.mark.usefixtures("variables")
def test_a_secret_is_struck_out(text: str, wanted: str) -> None:
    assert redacted(text) == wanted
    assert redacted(wanted) == wanted


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.usefixtures("variables")
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.usefixtures("variables")
def test_the_place_of_a_secret_is_none(tmp_path: Path) -> None:
    assert str(tmp_path) in redacted(f"{tmp_path}/key.pem cannot be read")


def test_the_shipped_sweep_files_hold_no_secret() -> None:
    for file in sorted((REPO / "search_spaces").glob("*.yaml")):
        assert redacted(file.read_text()) == file.read_text(), file.name


def test_a_messages_secret_is_struck_out() -> None:
    problem = Problem(
        "no such file, got https://ann:canary@host/x", "x.yaml:3", "Is the password=canary1 right?"
    )
    assert "canary" not in str(problem) + str(UsageError(problem))


def test_a_bug_of_ours_tells_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise RuntimeError("lost https://ann:canary@host/")
    told = capsys.readouterr().err
    assert ended.value.code == 1 and "canary" not in told
    assert "Traceback" in told and f"RuntimeError: lost https://{WORD}@host/" in told


def test_the_journal_strikes_secrets_out_of_texts_but_not_of_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    text = "https://ann:canary@host/x"
    journal.append(
        "trial",
        id=text,
        arm=text,
        name=text,
        config={"data": {"root": text}},
        reason=text,
        token="t0ken=abc123",
    )
    journal.close()
    (entry,) = read(tmp_path / "journal.jsonl")
    assert entry == journal.entries[0]
    assert (entry["id"], entry["arm"], entry["name"], entry["token"]) == (
        text,
        text,
        text,
        "t0ken=abc123",
    )
    assert (entry["config"]["data"]["root"], entry["reason"]) == (redacted(text), redacted(text))


def test_a_place_that_held_a_password_is_asked_for(tmp_path: Path) -> None:
    from suite.config import TrialConfig
    from suite.restore import RestoredTrial

    for section, name in (("data", "root"), ("model", "weights")):
        config = TrialConfig.model_validate({section: {name: f"https://{WORD}@host/x"}})
        run_ = run("base", 0)
        known = RestoredTrial("x", run_, None, config, None, None)  # type: ignore[arg-type]
        with pytest.raises(EnvironmentProblem, match=f"{section}.{name} of run .* held a password"):
            known.dataset() if section == "data" else known.weights()


# A network whose exception tells all that it knows; the other arms train.
TELLTALE = """

class Telltale(Tiny):
    def forward(self, x):
        if self.training:
            password = os.environ["APP_PASSWORD"]
            tokens = os.environ["HF_TOKEN"], os.environ["SERVICE_KEY"]
            raise RuntimeError(f"cannot reach https://bob:{URL_CANARY}@db.example/x "
                               f"with {password}, Bearer {BEARER_CANARY} {' '.join(tokens)} "
                               f"{os.environ['DATABASE_URL'].split(':')[2].split('@')[0]}")
        return super().forward(x)


def telltale(num_classes):
    return Telltale(num_classes)
"""
CANARIES = {
    "HF_TOKEN": "canary01-huggingface",
    "WANDB_API_KEY": "canary02-wandb",
    "SERVICE_KEY": "canary03-service-k3y",
    "DB_SECRET": "canary04-database",
    "APP_PASSWORD": "canary05-application",
    "AWS_ACCESS_KEY_ID": "AKIACANARY06CANARY06",
    "AWS_SECRET_ACCESS_KEY": "canary07/aws+secret",
    "AWS_SESSION_TOKEN": "canary08-session",
    "MLFLOW_TRACKING_PASSWORD": "canary09-mlflow",
    "DATABASE_URL": "postgresql://ann:canary10-url@db/x",
}
URL_CANARY, BEARER_CANARY, ROOT_CANARY, GIT_CANARY = (
    "canary11-inurl",
    "canary12-bearer.x1",
    "canary13-root",
    "canary14-git",
)
DIFF_CANARY, TEXT_CANARY, NOTE_CANARY = "canary15-diff", "canary16-text", "ghp_" + "canary17" * 4
COMMENT_CANARY, OVERRIDE_CANARY, WEIGHTS_CANARY = (
    "canary18-comment",
    "canary19-override",
    "canary20-weights",
)
EVERY_CANARY = re.compile(rb"canary(0\d|1\d|20)|CANARY06", re.IGNORECASE)


def found_in(folder: Path, inputs: set[str]) -> dict[str, list[bytes]]:
    """File -> canaries in it, or in its name; files that the user wrote aside."""
    found = {}
    for path in folder.rglob("*"):
        place = path.relative_to(folder)
        if place.parts[0] in inputs or path.is_dir() or not path.is_file():
            continue
        hits = re.findall(rb"canary..|CANARY06", str(place).encode() + path.read_bytes())
        if hits:
            found[str(place)] = sorted(set(hits))
    return found


def test_a_token_that_others_can_read_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself leaves one of mode 644; a new one never is.

    Where the user has another one, none is made.
    """
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    for mode in (0o644, 0o640, 0o600):
        token.chmod(mode)
        ray_session._guard_token()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text() == "mine"
    token.unlink()
    ray_session._guard_token()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64
    token.unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    ray_session._guard_token()
    assert list(token.parent.iterdir()) == []


LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def listening(process: psutil.Process) -> list[tuple[str, str, int]]:
    """(program, address, port) that a process or one of its children listens on."""
    heard = []
    for each in [process, *process.children(recursive=True)]:
        try:
            heard += [
                (each.name(), one.laddr.ip, one.laddr.port)
                for one in each.net_connections(kind="inet")
                if one.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    return heard


@pytest.mark.slow
def test_a_sweep_leaks_no_secret_and_opens_no_port(folder: Folder) -> None:
    path = folder.path
    told = TINY + f"\nURL_CANARY, BEARER_CANARY = {URL_CANARY!r}, {BEARER_CANARY!r}\n" + TELLTALE
    (path / "tiny_net.py").write_text(told)
    file = folder.write(
        description=f"Does it help? password={TEXT_CANARY}",
        trial=SWEEP["trial"]
        | {"data": SWEEP["trial"]["data"] | {"root": f"https://ann:{ROOT_CANARY}@host/images"}},
        parameters={"model.arch": {"values": ["tiny_net:build", "tiny_net:telltale"]}},
        seeds=[0],
        checkpoints={"keep": 1},
        reference={"arch=tiny_net:build": {"val/acc": 0.5, "note": f"by {NOTE_CANARY}"}},
    )
    file.write_text(file.read_text() + f"# api_key: {COMMENT_CANARY}\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    for arguments in (["init", "-q"], ["remote", "add", "origin", f"https://ann:{GIT_CANARY}@git.example/x"],
                      ["add", "."], ["commit", "-qm", "x"]):  # fmt: skip
        subprocess.run([*git, *arguments], cwd=path, check=True)
    (path / "tiny_net.py").write_text(told + f"\nSERVICE_PASSWORD = {DIFF_CANARY!r}\n")
    home = path / "home"
    home.mkdir()
    ray = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))  # short: Ray's sockets are in it
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=path.parent))
    secrets = CANARIES | {
        "HOME": str(home),
        "RAY_TMPDIR": str(ray),
        "SUITE_CACHE": str(cache),
        "SLOW": "0.1",
    }
    try:
        folder.report = True
        process = folder.start(
            f"description=Does it help? secret={OVERRIDE_CANARY}", "-v", **secrets
        )
        folder.wait_for(process, lambda journal: any(entry["kind"] == "epoch" for entry in journal))
        heard = listening(psutil.Process(process.pid))
        token = home / ".ray" / "auth_token"
        mode = stat.S_IMODE(token.stat().st_mode)
        secret_of_ray = token.read_bytes()
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 3, output
        assert not EVERY_CANARY.search(output.encode()), EVERY_CANARY.search(output.encode())
        assert WORD in output, "the exception of the user's network is told, without its secrets"
        assert found_in(path, {"sweep.yaml", "tiny_net.py", ".git", "__pycache__"}) == {}, (
            "the home folder is in it"
        )
        assert any(cache.iterdir()) and found_in(cache, set()) == {}
        assert found_in(ray, set()) == {}, "Ray's logs, which everybody may read"
        assert secret_of_ray not in b"".join(
            file.read_bytes() for file in (path / "runs").rglob("*") if file.is_file()
        )
        assert {"mlflow.db", "mlartifacts", "runs", "reports"} <= {
            each.name for each in path.iterdir()
        }
        text = next(entry["text"] for entry in folder.journal if entry["kind"] == "launch")
        assert text.count(WORD) == 4, "description, root, note, comment"
        (path / "replayed.yaml").write_text(text)
        assert len(load(path / "replayed.yaml").arms_list) == 2, "it is still a sweep file"
        assert {(ip, name) for name, ip, _ in heard if ip not in LOOPBACK} == set(), heard
        assert {"raylet", "gcs_server"} <= {name for name, _, _ in heard}
        assert mode == 0o600
    finally:
        shutil.rmtree(ray, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["model.arch=resnet18", f"model.weights=https://ann:{WEIGHTS_CANARY}@host/w.pth"], 6),
        ([f"train.lr=https://ann:{OVERRIDE_CANARY}@host/"], 2),
        ([f"data.name=https://ann:{OVERRIDE_CANARY}@host/"], 2),
        (["--tracking-uri", f"http://ann:{URL_CANARY}@127.0.0.1:9"], 6),
        (["--tracking-uri", f"postgresql+psycopg2://ann:{URL_CANARY}@127.0.0.1:9/x"], 6),
    ],
)
def test_a_refusal_tells_no_secret(
    arguments: list[str], code: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suite.sweep.__main__ import main

    monkeypatch.chdir(folder.path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder.write()
    done = CliRunner().invoke(main, ["sweep.yaml", *arguments])
    assert done.exit_code == code, done.output
    assert not EVERY_CANARY.search(done.output.encode()) and "Traceback" not in done.output
    assert WORD in done.output
