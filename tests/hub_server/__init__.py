"""A Hugging Face Hub on loopback, for tests: real HTTP, real clients, faults on request.

Speaks the part of the Hub's HTTP API that huggingface_hub 2.4.0, datasets 5.2.0, transformers 5.23.0, peft 0.21.2 and
trl 1.16.0 use for model and dataset repositories: whoami, create, repository info, tree, paths-info, refs,
branches, tags, preupload, LFS batch, upload and verify (basic transfer), commit, resolve with ranges. It was
written against huggingface_hub 2.4.0, whose clients run against it unpatched.

    with HubServer(users={"tok_write": "alice"}, read_tokens={"tok_read": "alice"}) as hub:
        HfApi(endpoint=hub.endpoint, token="tok_write").create_repo("alice/x", repo_type="dataset", private=True)
        subprocess.run([...], env=hub.environment(token="tok_write", home=tmp_path))
        hub.fail(500, method="PUT", path="^/lfs/", times=2)  # the next two uploads of large files
        hub.fail("drop", skip=6)                             # whatever the seventh request from now is
        hub.repo("dataset", "alice/x").files()               # {path: bytes} of main

Not spoken: Xet (clients need HF_HUB_DISABLE_XET=1), pull requests, multipart upload, Spaces, gating, paging.
A large file is answered in place, where the real Hub redirects to its storage; cards are accepted unchecked.
"""

from hub_server.repositories import Blob, Repo
from hub_server.server import HubServer

__all__ = ["Blob", "HubServer", "Repo"]
