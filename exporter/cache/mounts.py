"""The mount table: which filesystem holds a path, and which devices are no filesystems of files that somebody stored."""

import os

from exporter.cache.facts import FilesystemFacts

MOUNTS = "/proc/self/mountinfo"
# File systems whose files the kernel makes up. (tmpfs and ramfs hold real ones: models are kept in memory there.)
_SHOWN_BY_THE_KERNEL = frozenset(
    b"proc sysfs devtmpfs devpts cgroup cgroup2 debugfs tracefs securityfs pstore bpf configfs fusectl mqueue hugetlbfs"
    b" efivarfs binfmt_misc rpc_pipefs nsfs selinuxfs".split()
)


def filesystem_of(path: str) -> FilesystemFacts | None:
    """Free bytes (for users other than root) and size of the filesystem that holds ``path``; None if nothing says so.

    The mount is found by the path, not by its device: files of a btrfs subvolume have another device than their mount.
    """
    size = os.statvfs(path)
    mount = mount_of(os.path.realpath(path), read_mounts())
    if mount is None or not size.f_blocks:
        return None
    mountpoint, device = mount
    return FilesystemFacts(mountpoint, device, size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize)


def read_mounts() -> bytes:
    """The mount table of this process; empty if there is none."""
    try:
        with open(MOUNTS, "rb") as table:
            return table.read()
    except OSError:
        return b""


def mount_of(path: str, mounts: bytes) -> tuple[str, str] | None:
    """(mount point, device) of the filesystem that a real path lies in, by /proc/self/mountinfo.

    A later mount hides an earlier one at the same place. One device mounted several times goes by its shortest mount
    point: a container sees the same disk under each of the files that are mounted into it.
    """
    best: tuple[str, str] | None = None
    shortest: dict[str, str] = {}
    for line in mounts.splitlines():
        fields = line.split(b" ")
        if len(fields) < 6:
            continue
        point = os.fsdecode(fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n"))
        point, device = point.replace("\\134", "\\"), os.fsdecode(fields[2])
        shortest[device] = min(shortest.get(device, point), point, key=lambda known: (len(known), known))
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best[0])):
            best = point, device
    return None if best is None else (shortest[best[1]], best[1])


def kernel_devices(mounts: bytes) -> frozenset[int]:
    """The devices (``st_dev``) of /proc, /sys and their like, by /proc/self/mountinfo."""
    found = set()
    for line in mounts.splitlines():
        mount, _, filesystem = line.partition(b" - ")
        fields, kind = mount.split(b" "), filesystem.split(b" ")[0]
        major, _, minor = fields[2].partition(b":") if len(fields) > 2 else (b"", b"", b"")
        if kind in _SHOWN_BY_THE_KERNEL and major.isdigit() and minor.isdigit():
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)
