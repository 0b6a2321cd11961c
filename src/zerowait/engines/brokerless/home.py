"""Where a user's processes meet on one machine: the state folder and its namespaces, on ground that bears locks."""

from __future__ import annotations

import os
import pwd
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from zerowait.errors import SettingsError, StoreError
from zerowait.names import check_process

FOLDER_MODE = 0o700
SOCKET_PATH_BYTES = 100  # the kernel's limit is 107 on Linux and 103 on macOS, and libzmq wants one for itself

# Where a lock taken on one machine is not seen on another, or where nobody vouches that it is.
# fmt: off
WITHOUT_LOCKS = frozenset((
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.cephfs", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.goofys", "fuse.grpcfuse", "fuse.juicefs", "fuse.osxfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "fuse.vmhgfs-fuse", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
))
# fmt: on
FORGETFUL = {
    "tmpfs": "in memory (tmpfs): what is stored there is gone after a reboot",
    "ramfs": "in memory (ramfs): what is stored there is gone after a reboot",
    "overlay": "in a container's own layer (overlay): what is stored there is gone with the container",
    "aufs": "in a container's own layer (aufs): what is stored there is gone with the container",
}


class Folders(Struct, frozen=True):
    """The folders of one namespace. All exist, belong to this user and are open to nobody else."""

    root: Path
    outbox: Path
    instances: Path
    peers: Path
    sockets: Path
    notices: tuple[str, ...] = ()  # sentences about the ground: what forgets


def state_home(home: Path | None) -> Path:
    """The folder below which everything local lies: `home`, or `~/.local/state/zerowait`.

    The home is the password database's, never $HOME, so that cron, systemd, `env -i` and a login shell meet. Nothing is
    made and the environment is not read. Raises SettingsError for a relative path, StoreError if this user has no home.
    """
    if home is not None:
        if not home.is_absolute():
            raise SettingsError(
                f"The state folder {str(home)!r} is relative: two processes started in different folders would never "
                "meet. Write the whole path.",
                origin="ZEROWAIT_HOME",
            )
        return home
    user = os.geteuid()
    try:
        whose = pwd.getpwuid(user).pw_dir
    except KeyError:
        whose = ""
    if not whose.startswith("/"):
        raise StoreError(
            f"User {user} has no home folder in the password database, so there is no place for outboxes. {_remedy()}"
        )
    return Path(whose) / ".local" / "state" / "zerowait"


def open_folders(home: Path, namespace: str, *, mounts: str | None = None) -> Folders:
    """Makes and checks the folders of a namespace below `home`. All are 0700 whatever the umask.

    mounts: the text of mountinfo(5), for tests; None reads this machine's.

    Raises SettingsError for a name that cannot be a folder's; StoreError, naming ZEROWAIT_HOME, if there is no place to
    write, if a folder belongs to another user or others may write to it, and on file systems where locks do not hold.
    """
    try:
        check_process(namespace, "a namespace")
    except RuntimeError as error:
        raise SettingsError(str(error), origin="namespace") from None
    # A home that is itself a link, to a larger disk say, is the user's own choice; below it nothing is.
    home = Path(os.path.realpath(state_home(home)))
    _make_parents(home)
    own_folder(home, shared_reading=True)
    notices = _ground(home, mounts)
    root = home / namespace
    folders = Folders(root, root / "outbox", root / "instances", root / "peers", root / "s", notices)
    for folder in (root, folders.outbox, folders.instances, folders.peers, folders.sockets):
        own_folder(folder)
    return folders


def own_folder(folder: Path, *, shared_reading: bool = False) -> None:
    """Makes `folder` (0700) if it is not there, and sees that it is this user's and nobody else's.

    shared_reading: others may read the names in it; else that is taken from them. Raises StoreError.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, FOLDER_MODE)
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            what = "a link" if stat.S_ISLNK(status.st_mode) else "no folder"
            raise StoreError(
                f"{folder} is {what}; a folder is wanted there. Nothing was touched. {_remedy()}", path=folder
            )
        if status.st_uid != os.geteuid():
            owner, us = _user(status.st_uid), _user(os.geteuid())
            raise StoreError(
                f"{folder} belongs to {owner}, and this process runs as {us}. Nothing was touched. Run it as {owner}, "
                f"or set ZEROWAIT_HOME to a folder of {us}'s.",
                path=folder,
            )
        if status.st_mode & 0o022:
            # A sticky folder is everybody's on purpose, as /tmp is: chmod would be bad advice.
            remedy = (
                f"Set ZEROWAIT_HOME to a folder of its own below it, such as {folder / 'zerowait'}."
                if status.st_mode & stat.S_ISVTX
                else f"Look at what is in it, then: chmod 700 {folder}"
            )
            raise StoreError(
                f"Others than {_user(status.st_uid)} may write to {folder} (mode {stat.S_IMODE(status.st_mode):04o}), "
                f"so outboxes and sockets in it could not be trusted. {remedy}",
                path=folder,
            )
        wanted = status.st_mode & 0o055 if shared_reading else 0
        if stat.S_IMODE(status.st_mode) & 0o777 != FOLDER_MODE | wanted:
            os.chmod(folder, FOLDER_MODE | wanted)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "this user may not write there", str(folder))
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be used: {error.strerror}. Nothing was stored. {_remedy()}",
            path=folder,
            errno=error.errno,
        ) from error


def socket_path(folders: Folders, instance: int) -> Path:
    """Where this instance's socket goes: in the namespace, or if that path is over 100 bytes long, in a 0700 folder of
    this user in the temporary directory. Raises StoreError if that one is somebody else's."""
    name = f"{instance:016x}"
    path = folders.sockets / name
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    # TMPDIR may itself be long (macOS, test runners). Where it is needs no agreement: the entry names it.
    for temporary in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        path = Path(temporary) / f"zerowait-{os.geteuid()}" / name
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            try:
                own_folder(path.parent)
            except StoreError as error:
                raise StoreError(
                    f"The path of a socket below {folders.root} would be longer than {SOCKET_PATH_BYTES} bytes, and "
                    f"its substitute cannot be used either: {error} A shorter ZEROWAIT_HOME needs no substitute.",
                    path=path.parent,
                ) from error
            return path
    raise StoreError(f"No place for a socket: {folders.sockets} is too long. Set ZEROWAIT_HOME to a shorter path.")


def filesystem(path: Path, mounts: str) -> str:
    """The type of the file system that `path` lies on, by the text of mountinfo(5); empty if it does not say."""
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 7 or "-" not in fields:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # blanks are written \040
        # Among equals the later one lies on top.
        if len(point.parts) >= depth and path.is_relative_to(point):
            found, depth = fields[fields.index("-") + 1], len(point.parts)
    return found


def _ground(home: Path, mounts: str | None) -> tuple[str, ...]:
    if mounts is None:
        if not sys.platform.startswith("linux"):
            return ()
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
        except OSError:
            return ()
    kind = filesystem(home, mounts)
    if kind in WITHOUT_LOCKS:
        raise StoreError(
            f"{home} lies on a network or shared file system ({kind}), where locks do not hold: two processes could "
            f"take the same outbox. Nothing was stored. {_remedy()}",
            path=home,
        )
    if kind in FORGETFUL:
        return (f"{home} lies {FORGETFUL[kind]}. Set ZEROWAIT_HOME to a folder on a disk if that matters.",)
    return ()


def _make_parents(home: Path) -> None:
    missing = [parent for parent in home.parents if not os.path.lexists(parent)]
    try:
        for parent in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(parent, FOLDER_MODE)
            if os.stat(parent).st_mode & FOLDER_MODE != FOLDER_MODE:
                os.chmod(parent, FOLDER_MODE)  # a umask took from us what we need
    except OSError as error:
        raise StoreError(
            f"{home} cannot be made: {error.strerror}. Nothing was stored. {_remedy()}", path=home, errno=error.errno
        ) from error


def _remedy() -> str:
    """A value for ZEROWAIT_HOME that will do here, best one first."""
    name = _user(os.geteuid())
    lasting = Path("/var/lib") / (name if name.isidentifier() and name != "root" else "zerowait")
    passing = Path(tempfile.gettempdir()) / f"zerowait-home-{os.geteuid()}"
    if os.access(lasting if lasting.is_dir() else lasting.parent, os.W_OK | os.X_OK):
        return f"Set ZEROWAIT_HOME to a folder that this user may write, such as {lasting}."
    return (
        f"Set ZEROWAIT_HOME to a folder that this user may write: {lasting} once it has been made and given to {name}, "
        f"or at once, but forgotten at a reboot, {passing}."
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
