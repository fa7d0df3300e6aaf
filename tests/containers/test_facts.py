"""What a container's facts say to a person."""

from dataclasses import replace

from exporter.containers.facts import ContainerFacts

VLLM = ContainerFacts("0123456789ab", "vllm", "rocm/vllm", "sha256:ab", "vllm", running=True, aiter=True)


def test_aiter_that_the_image_cannot_use_is_said() -> None:
    """A switch without effect is told where the GPU is known not to be among those the image was built for."""
    assert "AITER is switched on" in replace(VLLM, aiter_usable=False).notes[0]
    assert replace(VLLM, aiter_usable=True).notes == ()
    assert replace(VLLM, aiter_usable=None).notes == ()
    assert replace(VLLM, aiter=False, aiter_usable=False).notes == ()


def test_a_server_without_an_address_is_said() -> None:
    """Why a running server can't be probed is told; a toolbox without a server needs no address."""
    assert replace(VLLM, unreachable="no port is published").notes == ("no port is published",)
    assert replace(VLLM, backend=None, unreachable="no port is published").notes == ()
