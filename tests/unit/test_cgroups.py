from pathlib import Path

import pytest

from taskqueue.errors import PrivilegeError
from taskqueue.process.cgroups import Boundaries, Cgroup, directory_of

#: proc(5), /proc/PID/mountinfo.
PROC = "25 1 0:22 / /proc rw - proc proc rw\n"
PLAIN = f"{PROC}30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
HYBRID = (
    "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "32 25 0:28 / /sys/fs/cgroup/my\\040own rw - cgroup2 c rw\n"
)
INNER = "33 25 0:29 /docker/a1 /sys/fs/cgroup rw master:1 - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("inside", "mounts", "directory"),
    [
        ("/", PLAIN, "/sys/fs/cgroup"),
        ("/system.slice/a.service", PLAIN, "/sys/fs/cgroup/system.slice/a.service"),
        ("/x", HYBRID, "/sys/fs/cgroup/my own/x"),
        ("/docker/a1", INNER, "/sys/fs/cgroup"),
        ("/docker/a1/b", INNER, "/sys/fs/cgroup/b"),
        ("/docker/a12", INNER, None),
        ("/", PROC, None),
    ],
)
def test_the_directory_of_a_control_group_depends_on_the_part_of_the_hierarchy_that_is_mounted(
    inside, mounts, directory
):
    assert directory_of(inside, mounts) == (directory and Path(directory))


def test_each_option_is_written_in_the_kernels_units():
    boundaries = Boundaries(memory_max=1024**3, cpu_weight=200, cpu_max=1.5, tasks_max=10, io_weight=50)
    assert dict(boundaries.contents()) == {
        "memory.max": "1073741824",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.weight": "200",
        "cpu.max": "150000 100000",
        "pids.max": "10",
        "io.weight": "50",
    }
    assert dict(Boundaries(cpu_max=0.001).contents()) == {"cpu.max": "1000 100000"}
    assert dict(Boundaries().contents()) == {}


def test_a_worker_does_not_run_outside_of_its_control_group(tmp_path):
    words = f"cannot enter the control group {tmp_path}/gone: No such file or directory"
    with pytest.raises(PrivilegeError, match=words):
        Cgroup(tmp_path / "gone", Boundaries(tasks_max=1)).enter()
