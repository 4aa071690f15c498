"""What examples are and what a request makes of them: `Data`, `Examples`, `resolve`."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, Subset

from rasura.data import (
    Data,
    Examples,
    ForgetClasses,
    ForgetSamples,
    Standardise,
    describe,
    examples_from,
    input_shape,
    resolve,
)
from rasura.errors import InputError

INPUTS = torch.arange(24.0).view(6, 4)  # row k starts with 4k, so a row tells where it came from
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def small(labels=LABELS, classes=("cat", "dog", "wolf")) -> Data:
    inputs = INPUTS[: len(labels)]
    return Data.from_tensors((inputs, labels), (inputs, labels), classes=classes, name="small")


def fed(examples: Examples, positions: list[int]) -> torch.Tensor:
    """What a model is given of the examples at these positions, where that is one tensor."""
    inputs, labels = examples.batch(torch.tensor(positions))
    assert isinstance(inputs, torch.Tensor)
    assert len(inputs) == len(labels)
    return inputs


class Items(Dataset):
    """A torch data set of whatever it is given."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


class Pictures(Items):
    """As in torchvision: the labels are known without reading an item."""

    classes = ("cat", "dog")

    def __init__(self, items, targets):
        super().__init__(items)
        self.targets = targets
        self.read = []

    def __getitem__(self, row):
        self.read.append(row)
        return self.items[row]


# -------------------------------------------------------------------------------------- Standardise


def test_bytes_are_scaled_to_one_before_they_are_standardised_per_channel():
    stored = torch.tensor([0, 255, 51, 102], dtype=torch.uint8).view(1, 2, 1, 2)
    out = Standardise(mean=(0.5, 0.2), std=(0.5, 0.1))(stored)
    assert out.dtype == torch.float32
    # Channel 0: (0 - .5) / .5 and (1 - .5) / .5. Channel 1: (.2 - .2) / .1 and (.4 - .2) / .1.
    torch.testing.assert_close(out, torch.tensor([-1.0, 1.0, 0.0, 2.0]).view(1, 2, 1, 2))


def test_floats_are_taken_as_scaled_already():
    out = Standardise(mean=(0.5,), std=(0.25,))(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == [-2.0, 2.0]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,), (0.0,)),
        ((0.0,), (-1.0,)),
        ((0.0,), (torch.nan,)),
        ((0.0,), (torch.inf,)),
        ((torch.nan,), (1.0,)),
        ((0.0,), ()),
    ],
)
def test_a_mean_or_standard_deviation_that_leads_to_nonsense_is_refused(mean, std):
    with pytest.raises(InputError, match=r"standardise: .* one finite number of each per channel, std above 0"):
        Standardise(mean, std)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_means_of_other_channels_than_the_images_have_are_refused(channels):
    """Three means for one channel would make three channels of it."""
    images = torch.zeros(2, channels, 4, 4, dtype=torch.uint8), [0, 1]
    with pytest.raises(InputError, match=rf"3 means for inputs of shape \({channels}, 4, 4\); allowed: one per"):
        Data.from_tensors(images, images, standardise=Standardise((0.5,) * 3, (0.5,) * 3))


# ----------------------------------------------------------------------------------------- Examples


def test_views_share_the_store():
    whole = examples_from(INPUTS, LABELS)
    view = whole.take(torch.tensor([4, 1])).take(torch.tensor([1]))
    assert view.source is whole.source
    assert fed(view, [0]).tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert view.labels.tolist() == [1]


def test_a_view_is_taken_by_positions_in_their_order_or_by_a_mask():
    whole = examples_from(INPUTS, LABELS)
    assert whole.take(torch.tensor([5, 0])).rows.tolist() == [5, 0]
    assert whole.take(LABELS == 1).rows.tolist() == [1, 4]


def test_batches_cover_all_examples_in_order_with_a_shorter_last_one():
    sizes, firsts = [], []
    for inputs, labels in examples_from(INPUTS, LABELS).batches(4):
        assert isinstance(inputs, torch.Tensor)
        assert len(inputs) == len(labels)
        sizes.append(len(inputs))
        firsts += inputs[:, 0].tolist()
    assert sizes == [4, 2]
    assert firsts == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]


def test_an_empty_view_has_no_batches():
    empty = examples_from(INPUTS, LABELS).take(torch.zeros(6, dtype=torch.bool))
    assert list(empty.batches(4)) == []
    assert empty.fingerprints() == []


def test_the_transform_applies_to_batches_and_not_to_the_store():
    examples = examples_from(INPUTS, LABELS, transform=lambda stored: -stored)
    index = torch.tensor([1])
    assert fed(examples, [1]).tolist() == [[-4.0, -5.0, -6.0, -7.0]]
    stored = examples.stored(index)
    assert isinstance(stored, torch.Tensor)
    assert stored.tolist() == [[4.0, 5.0, 6.0, 7.0]]


def test_a_dict_of_tensors_gives_batches_that_are_dicts():
    text = {"input_ids": torch.tensor([[7, 8], [9, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    inputs, labels = examples_from(text, [1, 0]).batch(torch.tensor([1]))
    assert isinstance(inputs, dict)
    assert {name: column.tolist() for name, column in inputs.items()} == {
        "input_ids": [[9, 0]],
        "attention_mask": [[1, 0]],
    }
    assert labels.tolist() == [0]


def test_arrays_become_tensors_even_where_they_are_read_only_or_run_backwards():
    array = np.arange(6.0).reshape(3, 2)
    array.flags.writeable = False
    assert examples_from(array, [0, 1, 0]).source.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert examples_from(array[::-1], [0, 1, 0]).source.tolist() == [[4, 5], [2, 3], [0, 1]]


def test_labels_may_be_any_whole_numbers_and_are_kept_as_int64():
    for labels in ([0, 1], (0, 1), np.array([0, 1], dtype=np.uint8), torch.tensor([0, 1], dtype=torch.int16)):
        kept = examples_from(torch.zeros(2, 3), labels).labels
        assert kept.dtype == torch.int64
        assert kept.tolist() == [0, 1]


def test_targets_are_used_without_reading_an_item():
    pictures = Pictures([(torch.tensor([float(k)]), k % 2) for k in range(4)], targets=[0, 1, 0, 1])
    examples = examples_from(pictures)
    assert examples.labels.tolist() == [0, 1, 0, 1]
    assert pictures.read == []
    assert fed(examples, [3, 0]).tolist() == [[3.0], [0.0]]
    assert pictures.read == [3, 0]


@pytest.mark.parametrize(
    "item",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, torch.tensor(y)],
        lambda x, y: {"pixels": x, "label": y},
        lambda x, y: {"pixels": x, "labels": y},
    ],
)
def test_labels_are_found_in_the_items_of_a_data_set(item):
    examples = examples_from(Items([item(torch.full((2,), float(k)), k) for k in range(3)]))
    assert examples.labels.tolist() == [0, 1, 2]
    inputs, _ = examples.batch(torch.tensor([2]))
    pixels = inputs["pixels"] if isinstance(inputs, dict) else inputs
    assert pixels.tolist() == [[2.0, 2.0]]
    assert not isinstance(inputs, dict) or set(inputs) == {"pixels"}  # a model must not be fed the label


def test_bare_inputs_may_come_with_labels_beside_them():
    examples = examples_from(Items([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]), labels=[1, 0])
    assert fed(examples, [0, 1]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert examples.labels.tolist() == [1, 0]


def test_a_subset_is_a_data_set_too():
    subset = Subset(Items([(torch.tensor([float(k)]), k) for k in range(5)]), [4, 2])
    examples = examples_from(subset)
    assert examples.labels.tolist() == [4, 2]
    assert fed(examples, [1, 0]).tolist() == [[2.0], [4.0]]


def test_hugging_face_data_sets_keep_their_rows_on_disk():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "label": [0, 1, 0]})
    examples = examples_from(table.with_format("torch"))
    inputs, labels = examples.take(torch.tensor([2, 0])).batch(torch.tensor([0, 1]))
    assert isinstance(inputs, dict)
    assert set(inputs) == {"x"}
    assert inputs["x"].tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert labels.tolist() == [0, 0]
    assert isinstance(examples.source, datasets.Dataset)


def test_hugging_face_columns_without_the_torch_format_are_refused_with_the_remedy():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]})
    with pytest.raises(InputError, match=r"with_format\('torch'\)"):
        Data.from_datasets(table, table)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_quantised_inputs_are_refused():
    with pytest.raises(InputError, match="inputs: a quantised tensor"):
        examples_from(torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8), [0, 1])


def test_items_of_an_unusable_kind_are_refused():
    for item in (torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta")):
        with pytest.raises(InputError, match=r"items: .* tensors of real numbers"):
            examples_from(Items([item, item]), labels=[0, 1]).batch(torch.arange(2))


def test_items_that_do_not_stack_are_refused():
    for items in ([torch.zeros(2), torch.zeros(3)], [object(), object()]):
        with pytest.raises(InputError, match=r"items: .* tensors of one shape"):
            examples_from(Items(items), labels=[0, 1]).batch(torch.arange(2))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), [0, 1], "2 labels for 3 inputs"),
        (torch.zeros(2, 2), [0.0, 1.0], r"torch.float32 of shape \(2,\)"),
        (torch.zeros(2, 2), [[0], [1]], r"shape \(2, 1\)"),
        (torch.zeros(2, 2), [True, False], "torch.bool"),
        (torch.zeros(2, 2), [True, 2], "torch.bool"),
        (torch.zeros(2, 2), [10**5000, 2], "labels: this list makes no tensor"),
        (torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64, device="meta"), "labels: a meta tensor"),
        (torch.zeros(2, 2, dtype=torch.complex64), [0, 1], "inputs: a complex tensor; allowed: a dense tensor of real"),
        (torch.zeros(2, 2).to_sparse(), [0, 1], "inputs: a sparse tensor"),
        (torch.zeros(2, 2, device="meta"), [0, 1], "inputs: a meta tensor"),
        ({"x": torch.zeros(2, 2, dtype=torch.complex64)}, [0, 1], r"inputs\['x'\]: a complex tensor"),
        (torch.zeros(2, 2), ["cat", "dog"], "labels: this list makes no tensor"),
        (torch.zeros(2, 2), None, "labels: none are given"),
        ({"x": torch.zeros(2, 2)}, None, "labels: none are given"),
        ({"x": torch.zeros(2), "y": torch.zeros(3)}, [0, 1], "lengths {'x': 2, 'y': 3}"),
        ({}, [0, 1], "one or more columns"),
        (torch.tensor(1.0), [0], "a single number"),
        (np.array(["cat", "dog"]), [0, 1], "inputs: this ndarray makes no tensor"),
        ([[0.0], [1.0]], [0, 1], "inputs: got list"),
        (Items([torch.zeros(1)]), None, "labels: the data set's items carry none"),
        (Items([{"x": torch.zeros(1)}]), None, "labels: the data set's items carry none"),
        ((item for item in ()), [0, 1], "inputs: got generator"),
    ],
)
def test_inputs_and_labels_that_make_no_examples_are_refused(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        examples_from(inputs, labels)


# ------------------------------------------------------------------------------------- fingerprints


def test_the_same_content_has_the_same_fingerprint_under_any_index():
    whole = examples_from(INPUTS, LABELS)
    first, *_, last = whole.fingerprints()
    assert whole.take(torch.tensor([5, 0])).fingerprints() == [last, first]
    assert len(first) == 16


def test_a_data_set_and_a_tensor_of_the_same_content_agree():
    items = Items([(row, 0) for row in INPUTS])
    assert examples_from(items).fingerprints() == examples_from(INPUTS, LABELS).fingerprints()


def test_fingerprints_of_dicts_depend_on_every_column():
    ids, mask = torch.tensor([[1, 2], [1, 2], [1, 3]]), torch.tensor([[1, 1], [1, 0], [1, 1]])
    assert len(set(examples_from({"ids": ids, "mask": mask}, [0, 0, 0]).fingerprints())) == 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32, torch.bfloat16])
def test_fingerprints_exist_for_every_type(dtype):
    inputs = torch.tensor([[0, 1], [1, 0], [0, 1]]).to(dtype)
    first, second, third = examples_from(inputs, [0, 0, 0]).fingerprints()
    assert first == third
    assert first != second


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=12))
def test_fingerprints_are_equal_exactly_where_the_content_is(rows):
    prints = examples_from(torch.tensor(rows, dtype=torch.uint8), [0] * len(rows)).fingerprints()
    for one, first in zip(rows, prints, strict=True):
        for other, second in zip(rows, prints, strict=True):
            assert (one == other) == (first == second)


def test_more_examples_than_one_slice_are_all_hashed():
    inputs = torch.arange(2500).view(-1, 1)
    assert len(set(examples_from(inputs, [0] * 2500).fingerprints())) == 2500


# --------------------------------------------------------------------------------------------- Data


def test_data_tells_its_sizes():
    assert repr(small()) == "Data('small', 3 classes, 6 training and 6 held-out examples)"


def test_classes_default_to_the_numbers_up_to_the_largest_label_of_either_part():
    data = Data.from_tensors((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 1), [3]))
    assert data.classes == ("0", "1", "2", "3")


def test_from_tensors_standardises_images():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    data = Data.from_tensors((images, [0, 1]), (images, [0, 1]), standardise=Standardise((0.5,), (0.5,)))
    assert fed(data.train, [0, 1]).flatten().tolist() == [-1.0, 1.0]
    assert fed(data.test, [0, 1]).flatten().tolist() == [-1.0, 1.0]


def test_from_datasets_takes_the_classes_of_the_data_set():
    pictures = Pictures([(torch.zeros(2), 0), (torch.zeros(2), 1)], targets=[0, 1])
    assert Data.from_datasets(pictures, pictures).classes == ("cat", "dog")
    assert Data.from_datasets(pictures, pictures, classes=["a", "b"]).classes == ("a", "b")


def test_input_shape_leaves_out_the_batch():
    assert input_shape(examples_from(torch.zeros(2, 3, 8, 8), [0, 1])) == (3, 8, 8)
    assert input_shape(examples_from({"ids": torch.zeros(2, 7)}, [0, 1])) == {"ids": (7,)}


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (
            (torch.zeros(2, 1), [0, 2]),
            (torch.zeros(1, 1), [0]),
            "ab",
            "train: label 2 is out of range; allowed: 0 to 1",
        ),
        ((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 1), [-1]), "ab", "test: label -1 is out of range"),
        ((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 2), [0]), "ab", r"test: inputs of shape \(2,\).* train, \(1,\)"),
        ((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 1), [0]), "aa", "classes: 'a' is named twice"),
        ((torch.zeros(0, 1), np.zeros(0, int)), (torch.zeros(1, 1), [0]), "ab", "train: 0 examples"),
        ((torch.zeros(1, 1), [0]), (torch.zeros(0, 1), np.zeros(0, int)), None, "test: 0 examples"),
        ((torch.zeros(0, 1), np.zeros(0, int)), (torch.zeros(0, 1), np.zeros(0, int)), None, "train: 0 examples"),
        ((torch.tensor([[0.0], [torch.nan]]), [0, 1]), (torch.zeros(1, 1), [0]), "ab", "train: example 1 holds NaN"),
        ((torch.zeros(2, 1), [0, 1]), (torch.tensor([[torch.inf]]), [0]), "ab", "test: example 0 holds NaN or inf"),
        ((torch.tensor([0.0, torch.nan]), [0, 1]), (torch.zeros(1), [0]), "ab", "train: example 1 holds NaN"),
        (
            ({"x": torch.tensor([[torch.nan]])}, [0]),
            ({"x": torch.zeros(1, 1)}, [0]),
            "ab",
            "train: example 0 holds NaN",
        ),
        ((torch.zeros(2, 1), [0, 0]), (torch.zeros(1, 1), [0]), None, "classes: 0 alone; allowed: 2 or more"),
        ((torch.zeros(2, 1), [0, 0]), (torch.zeros(1, 1), [0]), "a", "classes: a alone; allowed: 2 or more"),
        ((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 1), [0]), ["a", ""], "classes: '' is no name"),
        ((torch.zeros(2, 1), [0, 1]), (torch.zeros(1, 1), [0]), ["a", " \t"], r"classes: ' \\t' is no name"),
        (
            (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1]),
            (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), [0]),
            None,
            "train: images of torch.uint8; allowed: floats",
        ),
        ((torch.zeros(2, 1), [0, 10**9]), (torch.zeros(1, 1), [0]), None, "labels: 1000000000 is no class number"),
    ],
)
def test_data_that_cannot_be_used_is_refused(train, test, classes, message):
    with pytest.raises(InputError, match=message):
        Data.from_tensors(train, test, classes=classes)


def test_classes_are_found_by_name_or_number_in_ascending_order():
    data = small()
    int_of_numpy: Any = np.int64(1)
    int_of_torch: Any = torch.tensor(2)
    assert data.class_numbers(["wolf", 0, "cat"]) == (0, 2)
    assert data.class_numbers([int_of_numpy, int_of_torch]) == (1, 2)


def test_a_name_made_of_digits_is_a_name():
    data = Data.from_tensors((torch.zeros(2, 1), [0, 1]), (torch.zeros(2, 1), [0, 1]), classes=["1", "7"])
    assert data.class_numbers(["1"]) == (0,)
    assert data.class_numbers([1]) == (1,)


def test_a_misspelt_class_is_answered_with_the_nearest_one():
    with pytest.raises(InputError, match="class: 'Wofl' is unknown; did you mean 'wolf'"):
        small().class_numbers(["Wofl"])


@pytest.mark.parametrize("wrong", [3, -1, 1.0, True, None, torch.tensor(1.0)])
def test_what_is_no_class_is_refused(wrong):
    with pytest.raises(InputError, match=r"class: .* is unknown"):
        small().class_numbers([wrong])


@pytest.mark.parametrize(("chosen", "count"), [([], 0), (["cat", "dog", "wolf"], 3)])
def test_neither_none_nor_all_classes_can_go(chosen, count):
    with pytest.raises(InputError, match=f"classes: {count} of 3 to forget; allowed: 1 to 2"):
        small().class_numbers(chosen)


# ----------------------------------------------------------------------------------------- requests


def test_forgetting_classes_takes_all_their_examples():
    parts = resolve(ForgetClasses(["dog", 2]), small())
    assert parts.forget.rows.tolist() == [1, 2, 4, 5]
    assert parts.retain.rows.tolist() == [0, 3]
    assert parts.forget_classes == (1, 2)


def test_one_class_needs_no_list():
    assert ForgetClasses("dog") == ForgetClasses(["dog"])
    assert ForgetClasses(1) == ForgetClasses((1,))


def test_forgetting_samples_leaves_their_classes():
    parts = resolve(ForgetSamples([4, 0]), small())
    assert parts.forget.rows.tolist() == [0, 4]
    assert parts.retain.rows.tolist() == [1, 2, 3, 5]
    assert parts.forget_classes == ()


def test_indices_may_come_from_any_library():
    assert ForgetSamples(torch.tensor([4, 0])) == ForgetSamples(np.array([4, 0])) == ForgetSamples([4, 0])
    assert all(type(index) is int for index in ForgetSamples(np.array([4, 0])).indices)


def test_parts_share_the_store_of_the_data():
    data = small()
    parts = resolve(ForgetClasses("cat"), data)
    assert parts.forget.source is data.train.source
    assert parts.retain.source is data.train.source


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], "indices: 6 is not in the training set; allowed: 0 to 5"),
        ([-1], "indices: -1 is not in the training set"),
        ([0, 3, 3], "indices: 1 given twice"),
        ([], "forget: the request leaves 0 training examples to forget"),
        (range(6), "indices: class 'cat' would keep no training example; allowed: some of a class, or ForgetClasses"),
    ],
)
def test_samples_that_cannot_be_forgotten_are_refused(indices, message):
    with pytest.raises(InputError, match=message):
        resolve(ForgetSamples(indices), small())


@pytest.mark.parametrize("indices", [[1.7], torch.tensor([0.0, 1.0]), torch.tensor([False, True]), ["1"]])
def test_what_is_no_position_is_refused_rather_than_rounded(indices):
    with pytest.raises(InputError, match=r"indices: .* is no position"):
        ForgetSamples(indices)


def test_a_class_without_training_examples_cannot_be_forgotten():
    with pytest.raises(InputError, match="forget: the request leaves 0"):
        resolve(ForgetClasses("wolf"), small(labels=torch.tensor([0, 1, 0, 1])))


def test_something_else_is_no_request():
    with pytest.raises(InputError, match="request: got list; allowed: a list of classes, ForgetClasses"):
        resolve(["cat"], small())  # pyright: ignore[reportArgumentType]


def test_requests_are_described_in_words():
    data = small()
    assert describe(ForgetClasses([2, "cat"]), data) == "cat, wolf"
    assert describe(ForgetSamples([0, 1]), data) == "2 training examples"
    assert describe(ForgetSamples([3]), data) == "1 training example"


@st.composite
def labels_and_requests(draw):
    labels = draw(st.lists(st.integers(0, 3), min_size=2, max_size=30).filter(lambda labels: len(set(labels)) > 1))
    present = sorted(set(labels))
    if draw(st.booleans()):
        some = draw(st.lists(st.sampled_from(present), unique=True, min_size=1, max_size=len(present) - 1))
        return labels, ForgetClasses(some)
    positions = st.sampled_from(range(len(labels)))
    return labels, ForgetSamples(draw(st.lists(positions, unique=True, min_size=1, max_size=len(labels) - 1)))


def _empties_a_class(labels: list[int], request: ForgetSamples) -> bool:
    kept = {label for row, label in enumerate(labels) if row not in request.indices}
    return kept != set(labels)


@given(labels_and_requests())
def test_forget_and_retain_partition_the_training_set(drawn):
    labels, request = drawn
    inputs = torch.arange(len(labels)).view(-1, 1)
    data = Data.from_tensors((inputs, labels), (inputs, labels), classes="abcd")
    if isinstance(request, ForgetSamples) and _empties_a_class(labels, request):
        with pytest.raises(InputError, match="would keep no training example"):
            resolve(request, data)
        return
    parts = resolve(request, data)
    going, staying = parts.forget.rows.tolist(), parts.retain.rows.tolist()
    assert sorted(going + staying) == list(range(len(labels)))
    if isinstance(request, ForgetClasses):
        assert {labels[row] for row in going} == set(request.classes)
        assert not {labels[row] for row in staying} & set(request.classes)
    else:
        assert set(going) == set(request.indices)
    for part in (parts.forget, parts.retain):
        assert isinstance(part, Examples)
        assert part.labels.tolist() == [labels[row] for row in part.rows.tolist()]


def test_float64_arrays_become_float32() -> None:
    examples = examples_from(np.random.default_rng(0).normal(size=(4, 3)), torch.tensor([0, 1, 0, 1]))
    assert examples.source.dtype == torch.float32


def test_hugging_face_class_names_are_taken_from_the_label_column() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0], "label": [0, 1]}, features=features).with_format("torch")
    assert Data.from_datasets(rows, rows).classes == ("cat", "dog")


def test_tensors_without_content_are_refused():
    with pytest.raises(InputError, match="inputs: a meta tensor; allowed: a dense tensor"):
        examples_from(torch.empty(4, 2, device="meta"), LABELS[:4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_taken_to_where_batches_are_made():
    examples = examples_from({"a": torch.zeros(4, 2, device="cuda")}, torch.zeros(4, dtype=torch.int64, device="cuda"))
    assert examples.source["a"].device.type == examples.labels.device.type == "cpu"
