"""`mvtrack caption` with a tiny random captioner, as a user runs it."""

import csv
import json

import pytest
import torch
from PIL import Image

from mvtrack.cli.main import main as cli
from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.training.captions import caption_scenes, load_captioner
from tests.data.public.test_multicamvideo import truth_of, write_scene

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "dog", "runs", "red", "ball", "over", "grass"]


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "MultiCamVideo"
    for n in range(3):
        write_scene(root / f"train/f24_aperture5/scene{n + 1}", truth_of(n))
    return root


@pytest.fixture
def captioner(tmp_path):
    """A random BLIP of a few thousand weights."""
    declare_torchvision_operators()
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder, vocabulary = tmp_path / "blip", tmp_path / "vocabulary.txt"
    vocabulary.write_text("\n".join(WORDS))
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    text = sizes | {
        "vocab_size": len(WORDS), "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3,
        "encoder_hidden_size": 16, "max_position_embeddings": 32, "is_decoder": True,
    }  # fmt: skip
    vision = sizes | {"image_size": 32, "patch_size": 16}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), bos_token="[DEC]")
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_random_network_captions_scenes_that_prepare_reads(dataset, captioner, capsys):
    assert cli(["caption", str(dataset), "--model", str(captioner), "--device", "cpu", "--tokens", "6"]) == 0
    assert "3 scenes captioned, 0 had captions" in capsys.readouterr().out
    with (dataset / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    _, scenes = open_dataset_folder(dataset, DatasetOptions())
    assert [row["file_name"] for row in rows] == [scene.name for scene in scenes]
    assert [row["text"] for row in rows] == ["".join(scene.captions) for scene in scenes]
    assert {row["model"] for row in rows} == {str(captioner)}


def test_a_killed_run_goes_on_and_another_models_table_is_refused(dataset, tmp_path):
    table, asked = tmp_path / "captions.csv", []

    def describe(pictures):
        asked.append(len(pictures))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return f'a "dog",\n number {len(asked)}'

    arguments = (dataset, table, "stub", lambda: describe, 2, DatasetOptions())
    with pytest.raises(KeyboardInterrupt):
        caption_scenes(*arguments)
    with table.open("a") as file:
        file.write("train_f24_aperture5_scene2,half a li")
    done = caption_scenes(*arguments)
    assert (done.written, done.kept, done.failed) == (2, 1, ())
    assert asked == [2, 2, 2, 2]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["text"] for row in rows] == [f'a "dog", number {n}' for n in (1, 3, 4)]
    assert caption_scenes(dataset, table, "stub", lambda: pytest.fail("nothing to do"), 2, DatasetOptions()).kept == 3
    with pytest.raises(ValueError, match=r"captions.csv holds captions by stub: move it away"):
        caption_scenes(dataset, table, "other", lambda: describe, 2, DatasetOptions())


def test_tables_of_people_are_not_touched(dataset):
    table = dataset / "metadata.csv"
    table.write_text("file_name,text\nscene,by hand\n")
    with pytest.raises(ValueError, match="holds captions of another origin"):
        caption_scenes(dataset, table, "stub", lambda: pytest.fail("refused before"), 2, DatasetOptions())
    assert table.read_text() == "file_name,text\nscene,by hand\n"


def test_broken_scenes_are_named_and_gone_past(dataset, tmp_path, capsys):
    next((dataset / "train/f24_aperture5/scene2/videos").glob("*")).write_bytes(b"no video")
    done = caption_scenes(dataset, tmp_path / "t.csv", "stub", lambda: lambda pictures: "a dog", 2, DatasetOptions())
    assert done.written == 2
    assert len(done.failed) == 1
    assert "scene2" in done.failed[0]


def test_missing_models_come_with_their_command(tmp_path):
    with pytest.raises(ValueError, match="nobody/nothing is not on this machine: `hf download nobody/nothing`"):
        load_captioner("nobody/nothing", torch.device("cpu"), 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is no folder of an image-text model"):
        load_captioner(str(tmp_path / "empty"), torch.device("cpu"), 8)


def test_chat_models_are_asked_with_all_pictures(monkeypatch, tmp_path):
    """The template is given a place for each picture and the prompt; what was asked is not repeated in the answer."""
    declare_torchvision_operators()
    import transformers

    seen = {}

    class Inputs(dict):
        def to(self, device):
            return self

    class Processor:
        chat_template = "a template"

        def apply_chat_template(self, messages, add_generation_prompt):
            seen["messages"] = messages
            return "asked"

        def __call__(self, text, images, return_tensors):
            seen["pictures"] = len(images)
            return Inputs(input_ids=torch.zeros(1, 4, dtype=torch.long))

        def decode(self, ids, skip_special_tokens):
            return json.dumps(ids.tolist())

    class Network:
        def eval(self):
            return self

        def to(self, device):
            return self

        def generate(self, input_ids, max_new_tokens, do_sample):
            return torch.cat([input_ids, torch.tensor([[7, 8]])], 1)

    for name, made in (("AutoProcessor", Processor), ("AutoModelForImageTextToText", Network)):
        loader = type(name, (), {"from_pretrained": staticmethod(lambda *a, made=made, **k: made())})
        monkeypatch.setattr(transformers, name, loader)
    describe = load_captioner(str(tmp_path), torch.device("cpu"), 8)
    assert describe([Image.new("RGB", (8, 6))] * 3) == "[7, 8]"
    assert seen["pictures"] == 3
    kinds = [part["type"] for part in seen["messages"][0]["content"]]
    assert kinds == ["image", "image", "image", "text"]
