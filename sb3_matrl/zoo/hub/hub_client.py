"""The Hugging Face Hub: the three calls of huggingface_hub that are needed, and its errors in one line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_matrl.utils.one_line import one_line


class HubError(OSError):
    """The hub cannot be reached, or rejects a request."""


def import_hub() -> Any:
    """
    :return: the module ``huggingface_hub``, which is imported only when it is used
    :raises ImportError: if it is not installed
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError("the hub needs huggingface_hub: pip install 'sb3-matrl[hub]'") from error


@contextmanager
def hub_errors(task: str) -> Iterator[None]:
    """
    Report errors of the hub and of the connection as :class:`HubError`.

    :param task: what was tried, for the message
    """
    import_hub()
    transport = importlib.import_module("huggingface_hub.utils").httpx
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.LocalTokenNotFoundError) as error:
        raise HubError(f"{task}: {one_line(error)}") from error
    except (transport.HTTPError, ConnectionError) as error:
        raise HubError(f"{task}: the hub cannot be reached ({one_line(error) or type(error).__name__})") from error


def upload(folder: Path, repo_id: str, message: str, private: bool) -> str:
    """
    Send the files of a folder in one commit; the repository is created if it does not exist.

    :param folder: folder with the files
    :param repo_id: id of the repository, ``<user or organisation>/<name>``
    :param message: message of the commit
    :param private: create a repository that only its owner sees
    :return: address of the commit
    :raises HubError: if the hub cannot be reached, or does not allow it (``hf auth login`` logs in)
    :raises ImportError: if huggingface_hub is not installed
    :raises ValueError: if the hub does not allow such an id
    """
    hub = import_hub()
    with hub_errors(f"{repo_id} was not sent"):
        api = hub.HfApi()
        api.create_repo(repo_id, private=private or None, exist_ok=True)  # without it, as the owner has set it
        done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(done.commit_url)


def download(repo_id: str, revision: str | None, folder: Path, patterns: Sequence[str]) -> None:
    """
    Fetch files of a repository.

    :param repo_id: id of the repository
    :param revision: branch, tag or commit; ``None`` for the newest commit
    :param folder: folder that the files are written to
    :param patterns: names of the files, with ``*`` for any text; others are not fetched
    :raises HubError: if the hub cannot be reached, or has no such repository
    :raises ImportError: if huggingface_hub is not installed
    :raises ValueError: if the hub does not allow such an id
    """
    hub = import_hub()
    with hub_errors(f"{repo_id} was not fetched"):
        hub.snapshot_download(repo_id, revision=revision, local_dir=folder, allow_patterns=list(patterns))
