"""What each command of the command line takes: a frozen dataclass of options, whose help and defaults tyro reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rasura.auditing import Goal
from rasura.strength import FORGOTTEN, Search

Preprocess = Literal["model", "data"]
Verdict = Literal["erased", "over-erased", "residual", "masked", "damaged", "not-forgotten"]

USUAL = Search()
Budget = Annotated[
    int | None,
    tyro.conf.arg(help=f"with --strength auto, how many settings of a method are tried at most; else {USUAL.budget}."),
]
Tolerance = Annotated[
    float | None,
    tyro.conf.arg(help=f"with --strength auto, loss of accuracy that is accepted; else {USUAL.tolerance}."),
]
ForgetAccuracy = Annotated[
    float | None,
    tyro.conf.arg(
        help="with --strength auto, accuracy on the examples to forget that counts as forgotten; else "
        f"{FORGOTTEN} for classes, and for single examples that on unseen ones, and the tolerance."
    ),
]


@dataclass(frozen=True)
class Demo:
    """Train, forget and audit on the embedded Fashion-MNIST subset, and write one report.

    Attributes:
        out: folder for models, audits and report.html; what is there already is reused.
        json: print one JSON object on stdout and nothing else.
    """

    out: Path = Path("runs/demo")
    json: bool = False


@dataclass(frozen=True)
class Train:
    """Train a classifier. The same options, threads and versions give the same bits on the CPU; a stopped run resumes.

    Attributes:
        data: a name (`rasura list data`) or a path.
        model: a name with options, e.g. resnet8,width=32 (`rasura list models`).
        out: the model folder to write; a finished run of the same options there is kept.
        without: classes to leave out of training, by name or number: this makes a retrained reference.
        without_samples: training examples to leave out: 3,17,99, or a file with a position per line (from 0, in the
            training part as it is loaded: not the line of a file of which a part is held out), or a random share such
            as 1% (drawn with seed 0; 1%@7: with seed 7), or canaries:100@7 of data canaries:100@7:…
        held_out: share of each class that is held out of data without a test part, such as 0.3: the same wherever these
            data are named. By default a fifth.
        seed: of initialisation, order and augmentation.
        preprocess: how inputs are made: by the "model" (its image processor, timm's pretrained_cfg, its tokenizer) or
            the "data" (their mean and standard deviation, their words); by default "model" if its weights bring one.
        json: print one JSON object on stdout and nothing else.
    """

    data: str
    model: str
    out: Path
    without: tuple[str, ...] = ()
    without_samples: str | None = None
    held_out: float | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    json: bool = False


@dataclass(frozen=True)
class Forget:
    """Make a trained model forget classes, or training examples.

    Attributes:
        model: a model folder, a Hugging Face folder, or a file of weights (.safetensors, .pt).
        data: what the model was trained on: a name (`rasura list data`) or a path.
        out: the model folder to write; a finished run of the same options there is kept.
        forget: classes to forget, by name or number.
        forget_samples: instead of classes: training examples to forget, as in rasura train --without-samples.
        adapter: adapters to put onto the model first: adapter/ folders of rasura forget rfa --keep-adapter.
        architecture: what a file of weights is for, e.g. resnet8,width=32 or net.py:make; model folders know their own.
        trust: Python files that a model folder may run, beside the one that you name yourself.
        held_out: share of each class that is held out of data without a test part, such as 0.3: the same wherever these
            data are named. By default a fifth.
        seed: of all randomness in the method.
        recipe: start from the settings that are known to work on this data set (`rasura list recipes`).
        strength: "auto" searches the weakest setting that forgets and keeps accuracy, starting from the settings given;
            the examples it is judged by are kept aside from training, never the held-out ones.
        validation: with --strength auto, training examples that the model was not trained on, to judge settings by: as
            in rasura train --without-samples. By default a fifth of what it was trained on is kept from the method,
            which overstates the loss of accuracy.
        preprocess: how inputs are made: by the "model" (its image processor, timm's pretrained_cfg, its tokenizer) or
            the "data" (their mean and standard deviation, their words); by default "model" where the model has one.
        json: print one JSON object on stdout and nothing else.
    """

    model: Path
    data: str
    out: Path
    forget: tuple[str, ...] = ()
    forget_samples: str | None = None
    adapter: tuple[Path, ...] = ()
    architecture: str | None = None
    trust: tuple[Path, ...] = ()
    held_out: float | None = None
    seed: int = 0
    recipe: str | None = None
    strength: Literal["auto"] | None = None
    budget: Budget = None
    forget_accuracy: ForgetAccuracy = None
    tolerance: Tolerance = None
    validation: str | None = None
    preprocess: Preprocess | None = None
    json: bool = False


@dataclass(frozen=True)
class Audit:
    """Say what is left in a model of what it is said to have forgotten.

    Attributes:
        model: the model in question: a model folder, a Hugging Face folder, or a file of weights (.safetensors, .pt).
        original: the model before forgetting.
        data: the data; its held-out part must have been kept out of training and unlearning.
        out: the folder to write: verdict.json, scores.parquet, report.html.
        forget: classes that were to be forgotten, by name or number; by default all that the model's history names.
        forget_samples: instead of classes: training examples that were to be forgotten, as in rasura train
            --without-samples.
        reference: models trained without what was to be forgotten, from scratch, with other seeds. Three or more are
            advised; without any, the verdict is never ERASED.
        adapter: adapters to put onto the model first: adapter/ folders of rasura forget rfa --keep-adapter.
        goal: "retrain-equivalent": as if it had never seen the class, compared with the references. "concept": nobody
            can read the class from it, compared with untrained nets and raw inputs.
        also: what to measure besides, which takes longer or needs more models (`rasura list on-request`).
        shadow_original: further models trained with what was to be forgotten, with other seeds.
        shadow_unlearned: models made from such originals by the method in question.
        require: exit with 1 unless this is the verdict; a provisional ERASED does not do.
        architecture: what files of weights are for, e.g. resnet8,width=32 or net.py:make.
        trust: Python files that model folders may run, beside the one that you name yourself.
        held_out: share of each class that is held out of data without a test part, such as 0.3: the same wherever these
            data are named. By default a fifth.
        seed: of folds, draws and the bootstrap.
        preprocess: how inputs are made: by the "model" (its image processor, timm's pretrained_cfg, its tokenizer) or
            the "data" (their mean and standard deviation, their words); by default "model" where the model has one.
        json: print one JSON object on stdout and nothing else.
    """

    model: Path
    original: Path
    data: str
    out: Path
    forget: tuple[str, ...] = ()
    forget_samples: str | None = None
    reference: tuple[Path, ...] = ()
    adapter: tuple[Path, ...] = ()
    goal: Goal = "retrain-equivalent"
    also: tuple[str, ...] = ()
    shadow_original: tuple[Path, ...] = ()
    shadow_unlearned: tuple[Path, ...] = ()
    require: Verdict | None = None
    architecture: str | None = None
    trust: tuple[Path, ...] = ()
    held_out: float | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    json: bool = False


@dataclass(frozen=True)
class Recompute:
    """Judge the stored scores of an audit again and write its verdict and page anew; no model is needed.

    Attributes:
        recompute: a folder that `rasura audit` wrote.
        require: exit with 1 unless this is the verdict; a provisional ERASED does not do.
        json: print one JSON object on stdout and nothing else.
    """

    recompute: Path
    require: Verdict | None = None
    json: bool = False


@dataclass(frozen=True)
class Report:
    """Write report.html anew from the audits in a folder.

    Attributes:
        folder: an audit's folder, or one that holds several.
        json: print one JSON object on stdout and nothing else.
    """

    folder: tyro.conf.Positional[Path]
    json: bool = False


@dataclass(frozen=True)
class Compare:
    """Run several methods on one model, audit them all, and rank them on one page. A stopped comparison goes on.

    Attributes:
        model: the original: a model folder, a Hugging Face folder, or a file of weights (.safetensors, .pt).
        data: what the model was trained on: a name (`rasura list data`) or a path.
        forget: classes to forget, by name or number.
        reference: models trained without the classes, from scratch, with other seeds. Three or more are advised.
        out: folder for all runs, audits, comparison.json and comparison.html.
        methods: names (`rasura list methods`), with their default settings; by default all. Two controls that only
            silence the answers, logit-mask and bias-shift, are always there.
        recipe: in place of default settings those that worked best on this data set (`rasura list recipes`).
        strength: "auto" searches the strength of every method that has one.
        architecture: what files of weights are for, e.g. resnet8,width=32 or net.py:make.
        trust: Python files that model folders may run, beside the one that you name yourself.
        held_out: share of each class that is held out of data without a test part, such as 0.3: the same wherever these
            data are named. By default a fifth.
        seed: of methods and audits.
        preprocess: how inputs are made: by the "model" (its image processor, timm's pretrained_cfg, its tokenizer) or
            the "data" (their mean and standard deviation, their words); by default "model" where the model has one.
        json: print one JSON object on stdout and nothing else.
    """

    model: Path
    data: str
    forget: tuple[str, ...]
    reference: tuple[Path, ...]
    out: Path
    methods: tuple[str, ...] = ()
    recipe: str | None = None
    strength: Literal["auto"] | None = None
    budget: Budget = None
    architecture: str | None = None
    trust: tuple[Path, ...] = ()
    held_out: float | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    json: bool = False


@dataclass(frozen=True)
class Bench:
    """Compare methods over models, seeds and classes. What is there already is read, so a stopped bench goes on.

    Attributes:
        grid: a TOML file: data, models, seeds, forget, references, [recipe], [methods.NAME].
        out: folder for all runs (with a report.html per audit) and summary.json.
        trust: Python files that the grid may run, as data or models.
        engine: "local" runs one cell after another; "ray" hands cells to a Ray cluster that sees the same folder.
        json: print one JSON object on stdout and nothing else.
    """

    grid: tyro.conf.Positional[Path]
    out: Path
    trust: tuple[Path, ...] = ()
    engine: Literal["local", "ray"] = "local"
    json: bool = False
