"""Sending a model folder to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from dbtransform_lobes.export.model_folder import EXAMPLES, FILES
from dbtransform_lobes.inference.bundled import GRAPH, HUB_NAME, check_folder
from dbtransform_lobes.inference.enhance_model import EnhanceModel

CARD_KEYS = ("license", "library_name", "pipeline_tag", "tags")


def plan_upload(model_folder, name, trust_code=False):
    """Check a model folder and list what of it goes to "owner/name" on the hub.

    Returns the paths of the files to send and the names of what is left out.
    FileNotFoundError or ValueError if something is missing or wrong, also
    blocks of one's own without ``trust_code``.
    """
    validate_repo_id(name)
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"the name is {name!r}, expected owner/name")
    folder = Path(model_folder)
    check_folder(folder)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {', '.join(missing)} missing, expected "
            f"{', '.join(FILES)}; export the run again"
        )
    options = {"run_opts": {"device": "cpu"}, "trust_code": trust_code}
    EnhanceModel.from_hparams(folder, **options)
    card = folder / "README.md"
    try:  # what the hub shows
        data = ModelCard.load(card).data.to_dict()
    except Exception as error:
        raise ValueError(
            f"{card}: the front matter is no YAML ({error}); export again"
        ) from error
    missing = [key for key in CARD_KEYS if not data.get(key)]
    if missing:
        raise ValueError(
            f"{card}: the front matter lacks {', '.join(missing)}, expected "
            f"{', '.join(CARD_KEYS)}; export again"
        )
    there = {path.name for path in folder.iterdir()}
    sent = [file for file in (*FILES, GRAPH, *EXAMPLES) if file in there]
    return [folder / file for file in sent], sorted(there - set(sent))


def push_files(files, name, private=False, revision=None, token=None):
    """Send the files of ``plan_upload`` in one commit; return its address.

    A ``private`` repository is made if there is none; one that is there must
    be private, else ValueError. A ``revision`` is a branch, made if need be.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        public = private and not api.model_info(name).private
        if revision and not public:
            api.create_branch(name, branch=revision, exist_ok=True)
        if not public:
            commit = api.upload_folder(
                repo_id=name,
                folder_path=files[0].parent,
                revision=revision,
                allow_patterns=[file.name for file in files],
                commit_message="Model folder of dbtransform",
            )
    except Exception as error:
        # The hub's client raises whatever its transport does.
        raise ValueError(
            f"{name}: pushing failed ({type(error).__name__}: {error}); check "
            "the network, the name and the token (HF_TOKEN, `hf auth login` "
            "or --token), which must be allowed to write"
        ) from error
    if public:
        raise ValueError(
            f"{name}: is public already, expected a private repository; make "
            "it private on the hub or give another name; nothing was sent"
        )
    return commit.commit_url
