"""What `up` says about a machine that cannot run the cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from localcluster import binaries, requirements
from localcluster.errors import MissingRequirementsError
from localcluster.requirements import Machine
from localcluster.state import Paths

GOOD = Machine(
    which=lambda tool: f"/usr/bin/{tool}",
    user=lambda: 0,
    system=lambda: "Linux",
    go_version=lambda: "go1.26.8",
    cni=lambda: Path("/usr/lib/cni"),
    capabilities=lambda: True,
)


def verdict(tmp_path: Path, machine: Machine, *, images: bool = False) -> str:
    """Return the whole message, or nothing when the machine will do."""
    try:
        requirements.check(Paths(tmp_path), images=images, machine=machine)
    except MissingRequirementsError as error:
        return str(error)
    return ""


def without(*absent: str) -> Machine:
    """Return a good machine that lacks some programs."""
    return replace(GOOD, which=lambda tool: None if tool in absent else f"/usr/bin/{tool}")


def test_a_machine_with_everything_passes(tmp_path: Path) -> None:
    """Nothing missing, nothing said."""
    assert verdict(tmp_path, GOOD, images=True) == ""


def test_every_missing_program_is_named_with_the_one_command_that_brings_them_all(tmp_path: Path) -> None:
    """The user types one command, once, not one per failed attempt."""
    message = verdict(tmp_path, without("containerd", "ctr", "conntrack", "gcc"))

    for tool in ("`containerd`", "`ctr`", "`conntrack`", "`gcc`"):
        assert tool in message
    assert "apt-get install -y --no-install-recommends conntrack containerd gcc\n" in message
    assert "Nothing was started." in message


def test_image_builders_are_asked_for_only_when_images_are_built(tmp_path: Path) -> None:
    """A machine without buildah runs the cluster."""
    machine = without("buildah", "debootstrap", "skopeo")

    assert verdict(tmp_path, machine) == ""
    assert "buildah debootstrap skopeo" in verdict(tmp_path, machine, images=True)


def test_an_ordinary_user_is_told_why_root_is_needed(tmp_path: Path) -> None:
    """No package cures this, so none is offered."""
    message = verdict(tmp_path, replace(GOOD, user=lambda: 1000))

    assert "not root (uid 1000)" in message
    assert "apt-get" not in message


def test_missing_cni_plugins_are_a_package(tmp_path: Path) -> None:
    """The plugins are no programs on PATH, but they are missed all the same."""
    assert "containernetworking-plugins" in verdict(tmp_path, replace(GOOD, cni=lambda: None))


def test_root_without_the_right_to_make_namespaces_is_recognised(tmp_path: Path) -> None:
    """In an unprivileged container the user is root, and still cannot."""
    assert "may not create namespaces" in verdict(tmp_path, replace(GOOD, capabilities=lambda: False))


@pytest.mark.parametrize("machine", [without("go"), replace(GOOD, go_version=lambda: "go1.19.8")])
def test_go_is_needed_only_until_the_programs_are_built(tmp_path: Path, machine: Machine) -> None:
    """A finished build does not need its compiler."""
    assert "Go toolchain of at least 1.25" in verdict(tmp_path, machine)

    folder = Paths(tmp_path).bin
    folder.mkdir(parents=True)
    for module in binaries.MODULES:
        for program in module.programs:
            (folder / program).touch()

    assert verdict(tmp_path, machine) == ""


def test_a_lacking_machine_is_exit_code_2() -> None:
    """A script can tell it from a cluster that failed to start."""
    assert MissingRequirementsError("").exit_code == 2


def test_all_is_said_at_once(tmp_path: Path) -> None:
    """A wrong user and a missing program come in one message."""
    message = verdict(tmp_path, replace(without("runc"), user=lambda: 1000))

    assert "`runc`" in message
    assert "not root" in message
