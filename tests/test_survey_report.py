"""A round of discovery in rows and as JSON."""

from exporter.discovery import Found, OtherAddress, Survey
from exporter.probe.result import Identity
from exporter.survey_report import survey_json, survey_rows


def test_a_survey_says_what_and_why() -> None:
    """What would be probed, what not, and where nothing is."""
    found = Found("vllm", "http://172.17.0.2:8000", "container vllm runs vllm", Identity("vllm", "0.32.0"), "vllm", 0.0)
    seen = (
        OtherAddress("http://127.0.0.1:5000", "it answers, but not as an inference server", listening=True, at=0.0),
    )
    silent = (OtherAddress("http://127.0.0.1:1234", "refused", listening=False, at=0.0),)
    survey = Survey((found,), seen + silent)
    assert survey_rows([("mine", "http://far:8000")], survey) == [
        ("would be probed", "http://far:8000  mine, as configured"),
        ("would be probed", "http://172.17.0.2:8000  vLLM 0.32.0: container vllm runs vllm"),
        ("would not", "http://127.0.0.1:5000  it answers, but not as an inference server"),
        ("nothing listens", "http://127.0.0.1:1234"),
    ]
    listed = survey_json([("mine", "http://far:8000")], survey, "")
    assert listed["found"][0]["backend"] == "vllm"
    assert [each["listening"] for each in listed["not_probed"]] == [True, False]
    assert listed["containers_problem"] is None
