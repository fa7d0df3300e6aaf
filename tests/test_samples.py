"""The tests' own reading of an exposition says what the client library's says."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.samples import samples_of

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
ODD = r"""# HELP a b
# TYPE a gauge
a{x="1, \"}{",y="q\nz"} 3.0
a{x="\\n\\",y=""} +Inf
a -1e-05
b{x="#"} NaN
c{x="ü–"} 1e3
"""


@pytest.mark.parametrize("text", [GOLDEN.read_text(), ODD], ids=["golden", "odd"])
def test_all_samples_are_those_of_the_client_library(text: str) -> None:
    """Names, labels and values are the same, in the golden file and where labels have commas, quotes and braces."""
    expected = {
        (sample.name, frozenset(sample.labels.items())): repr(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert expected
    assert {key: repr(value) for key, value in samples_of(text).items()} == expected


@pytest.mark.parametrize("text", ["a", "a {} 1", 'a{x="1"y="2"} 1', 'a{x="\\t"} 1', "a 1 2 3", "a one", "a 1\na 1"])
def test_what_is_no_exposition_is_an_error(text: str) -> None:
    """A line that is no sample is not passed over, and a label set that is there twice does not replace the first."""
    with pytest.raises(ValueError, match=r"not a |twice|could not convert"):
        samples_of(text)
