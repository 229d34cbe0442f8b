"""CLIP and what is made of it, with small random weights."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_examples import SIDE_PX, WIDTH, pictures, write_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from safediff.errors import Inconclusive, UsageError
from safediff.judge.cards import Card, Row
from safediff.judge.clip import ClipJudge
from safediff.judge.clip_encoder import MEAN, STD, ClipEncoder, fetch, load_clip, prepare
from safediff.judge.q16 import Q16, read_prompts
from safediff.metrics.clip_score import clip_scores

LABELS, CONTRAST = ("owl", "church"), ("something else", "noise")
ROW = Row(hits=8, num_positives=10, false_alarms=1, num_negatives=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder(folder)


def original(image: Tensor) -> Tensor:
    """CLIP's own: Resize(bicubic), CenterCrop, ToTensor, Normalize, as torchvision defines them."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    short, long = sorted(picture.size)
    new_long = int(SIDE_PX * long / short)
    wide = picture.width == long
    picture = picture.resize(
        (new_long, SIDE_PX) if wide else (SIDE_PX, new_long), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(picture).astype(np.float64) / 255
    top = round((pixels.shape[0] - SIDE_PX) / 2.0)
    left = round((pixels.shape[1] - SIDE_PX) / 2.0)
    pixels = pixels[top : top + SIDE_PX, left : left + SIDE_PX]
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1).float()


SIZES = [(48, 40), (64, 64), (32, 32), (33, 65), (50, 131), (131, 50), (16, 24)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_preprocessing_is_the_original(height: int, width: int) -> None:
    images = pictures(2, height, width)
    found = prepare(images, SIDE_PX)
    assert found.shape == (2, 3, SIDE_PX, SIDE_PX)
    expected = torch.stack([original(image) for image in images])
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(48, 40), (64, 64), (32, 64), (64, 96)])
def test_preprocessing_is_that_of_transformers(height: int, width: int) -> None:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}
    )
    images = pictures(2, height, width)
    theirs = processor(
        [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], return_tensors="pt"
    ).pixel_values
    assert float((prepare(images, SIDE_PX) - theirs).abs().max()) < 1e-5


def test_vectors_are_those_of_the_model(folder: Path, encoder: ClipEncoder) -> None:
    model = CLIPModel.from_pretrained(folder).eval()
    images, texts = pictures(3), ["an owl", "a church at the end of the road"]
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**tokens, pixel_values=prepare(images, SIDE_PX))
    torch.testing.assert_close(encoder.embed_images(images), out.image_embeds)
    torch.testing.assert_close(encoder.embed_texts(texts), out.text_embeds)
    assert encoder.embed_images(images).shape == (3, WIDTH)
    assert encoder.features(images).shape == (3, 24)


def test_batches_and_repetition_do_not_matter(encoder: ClipEncoder) -> None:
    images = pictures(35)  # more than one batch
    texts = ["owl", "a much longer text than that", "x"] * 12
    many, names = encoder.embed_images(images), encoder.embed_texts(texts)
    alone = torch.cat([encoder.embed_images(image[None]) for image in images])
    torch.testing.assert_close(many, alone, atol=1e-6, rtol=1e-5)
    single = torch.cat([encoder.embed_texts([text]) for text in texts])
    torch.testing.assert_close(names, single, atol=1e-6, rtol=1e-5)
    assert torch.equal(many, encoder.embed_images(images))


def test_long_labels_are_refused_not_cut(encoder: ClipEncoder) -> None:
    with pytest.raises(UsageError, match="more tokens than the 77"):
        ClipJudge(encoder, ["x " * 80], contrast=CONTRAST)


def test_a_score_reads_long_prompts_up_to_the_window(encoder: ClipEncoder) -> None:
    long, read = " ".join("x" * 80), " ".join("x" * 75)
    assert encoder.too_long([long, read, "x"]) == [long]
    other = encoder.embed_texts([read + " y"])
    torch.testing.assert_close(encoder.embed_texts([long]), encoder.embed_texts([read]))
    torch.testing.assert_close(other, encoder.embed_texts([read]))


def test_score_is_the_softmax_against_the_contrast(encoder: ClipEncoder) -> None:
    judge = ClipJudge(encoder, LABELS, template="a photo of a {label}", contrast=CONTRAST)
    images = pictures(5)
    scores = judge.score(images)
    assert scores.labels == LABELS
    vectors = encoder.embed_images(images).double()
    for label in LABELS:
        texts = encoder.embed_texts([f"a photo of a {label}", *CONTRAST]).double()
        expected = (100 * vectors @ texts.T).softmax(1)[:, 0]
        torch.testing.assert_close(scores.of(label), expected, atol=1e-5, rtol=0)
    assert float(scores.probs.std()) > 1e-3


def test_more_contrast_can_only_lower_a_score(encoder: ClipEncoder) -> None:
    few = ClipJudge(encoder, LABELS, contrast=CONTRAST[:1]).score(pictures(5)).probs
    many = ClipJudge(encoder, LABELS, contrast=CONTRAST).score(pictures(5)).probs
    assert (many < few).all()


SETTINGS = {"template": "{label}", "contrast": list(CONTRAST), "threshold": 0.5}


def card(path: Path, judge: str, sha256: str, **rows: Row) -> Path:
    Card(judge=judge, weights_sha256=sha256, settings=SETTINGS, rows=rows).write(path)
    return path


def test_offsets_move_the_threshold_of_their_label(encoder: ClipEncoder, tmp_path: Path) -> None:
    rows = {"owl": Row(hits=8, num_positives=10, false_alarms=1, num_negatives=10, offset=2.0)}
    path = card(tmp_path / "c.json", "clip", encoder.weights_sha256, **rows)
    plain = ClipJudge(encoder, LABELS, contrast=CONTRAST).score(pictures(5))
    moved = ClipJudge(encoder, LABELS, contrast=CONTRAST, card=path).score(pictures(5))
    expected = plain.of("owl").logit() - 2.0
    torch.testing.assert_close(moved.of("owl").logit(), expected)
    torch.testing.assert_close(moved.of("church"), plain.of("church"))


def test_sensitivity_comes_from_the_card(encoder: ClipEncoder, tmp_path: Path) -> None:
    sha256 = encoder.weights_sha256
    path = card(tmp_path / "c.json", "clip", sha256, owl=ROW, church=ROW)
    found = ClipJudge(encoder, LABELS, contrast=CONTRAST, card=path).calibration(LABELS)
    assert (found.sensitivity_hits, found.num_positives, found.false_alarms) == (16, 20, 2)
    with pytest.raises(Inconclusive, match="no measured sensitivity") as caught:
        ClipJudge(encoder, LABELS, contrast=CONTRAST).calibration(LABELS)
    assert caught.value.next_step == "say in the policy: judges.clip.calibration"
    partial = card(tmp_path / "d.json", "clip", sha256, owl=ROW)
    with pytest.raises(Inconclusive, match="no measured sensitivity for 'church'"):
        ClipJudge(encoder, LABELS, contrast=CONTRAST, card=partial).calibration(LABELS)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"contrast": ("noise",)}, "measured with contrast"),
        ({"template": "a {label}"}, 'measured with template "{label}", the policy says "a {lab'),
        ({"threshold": 0.9}, "measured with threshold 0.5, the policy says 0.9"),
    ],
)
def test_cards_of_other_settings_are_refused(
    encoder: ClipEncoder, tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    path = card(tmp_path / "c.json", "clip", encoder.weights_sha256, owl=ROW, church=ROW)
    with pytest.raises(Inconclusive, match=re.escape(says)):
        ClipJudge(encoder, LABELS, **{"contrast": CONTRAST, **other}, card=path)


def test_cards_that_do_not_say_their_settings_are_refused(
    encoder: ClipEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    Card(judge="clip", weights_sha256=encoder.weights_sha256, settings={}, rows={}).write(path)
    with pytest.raises(Inconclusive, match="measured with template null"):
        ClipJudge(encoder, LABELS, contrast=CONTRAST, card=path)


def test_cards_of_others_are_refused(encoder: ClipEncoder, tmp_path: Path) -> None:
    other = card(tmp_path / "c.json", "clip", "f" * 64, owl=ROW)
    with pytest.raises(Inconclusive, match="measured on clip with weights ffffffffffff, not on"):
        ClipJudge(encoder, LABELS, contrast=CONTRAST, card=other)
    other.write_text('{"judge": "clip", "rows": 3}')
    with pytest.raises(Inconclusive, match="no readable card"):
        ClipJudge(encoder, LABELS, contrast=CONTRAST, card=other)


def write_prompts(path: Path, prompts: Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, prompts.numpy())
    else:
        save_file({"prompts": prompts}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_q16_is_the_softmax_of_two_prompts(
    encoder: ClipEncoder, tmp_path: Path, suffix: str
) -> None:
    prompts = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    judge = Q16(encoder, write_prompts(tmp_path / f"p{suffix}", 3 * prompts))
    found = judge.score(pictures(4)).of("inappropriate")
    a, b = encoder.embed_images(pictures(4)).double(), prompts.double()
    logits = 100 * a @ (b / b.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(found, logits[:, 1].sub(logits[:, 0]).sigmoid())
    swapped = Q16(encoder, write_prompts(tmp_path / f"q{suffix}", prompts.flip(0)))
    torch.testing.assert_close(
        swapped.score(pictures(4)).of("inappropriate"), 1 - found, atol=1e-5, rtol=0
    )
    assert swapped.weights_sha256 != judge.weights_sha256


def test_q16_never_unpickles(tmp_path: Path, encoder: ClipEncoder) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    for name in ("prompts.p", "prompts.pkl", "prompts.npy", "prompts.safetensors", "prompts.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(Inconclusive) as caught:
            read_prompts(tmp_path / name)
        assert "convert Q16's two prompts" in caught.value.next_step
    np.save(tmp_path / "o.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(Inconclusive, match="no readable prompts"):
        read_prompts(tmp_path / "o.npy")
    assert not (tmp_path / "executed").exists()


def test_the_pages_conversion_reads_arrays_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    page = Path(__file__).parents[1] / "docs" / "judges.md"
    (code,) = re.findall(r"```python\n(import pickle\n.*?)```", page.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    prompts = np.arange(2 * WIDTH, dtype=np.float16).reshape(2, 1, WIDTH) + 1
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        Path("prompts.p").write_bytes(pickle.dumps(prompts, protocol))
        exec(code, {"__name__": "page"})
        expected = torch.nn.functional.normalize(torch.tensor(prompts[:, 0]).float(), dim=-1)
        torch.testing.assert_close(read_prompts(Path("q16.npy")), expected)
    for other in (Bomb(), [prompts, Bomb()], np.array([Bomb()], dtype=object)):
        Path("prompts.p").write_bytes(pickle.dumps(other))
        with pytest.raises(pickle.UnpicklingError, match="which is no array: not read"):
            exec(code, {"__name__": "page"})
    assert not Path("executed").exists()


@pytest.mark.parametrize("shape", [(3, WIDTH), (2,), (2, WIDTH, 2)])
def test_prompts_of_a_wrong_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_prompts(tmp_path / "p.npy", torch.ones(shape))
    with pytest.raises(Inconclusive, match="expected two vectors"):
        read_prompts(path)


def test_prompts_of_another_model_are_refused(tmp_path: Path, encoder: ClipEncoder) -> None:
    path = write_prompts(tmp_path / "p.npy", torch.ones(2, WIDTH + 1))
    with pytest.raises(Inconclusive, match="vectors of 13 numbers, but the CLIP model's have 12"):
        Q16(encoder, path)


def test_clip_score_is_one_cosine_a_picture(encoder: ClipEncoder) -> None:
    images, texts = pictures(3), ["owl", "church", "key"]
    found = clip_scores(encoder, images.split(2), texts)
    for i in range(3):
        a = encoder.embed_images(images[i : i + 1])
        b = encoder.embed_texts(texts[i : i + 1])
        torch.testing.assert_close(found[i], torch.nn.functional.cosine_similarity(a, b)[0])
    with pytest.raises(ValueError, match="3 pictures and 2 texts"):
        clip_scores(encoder, [images], texts[:2])


def test_damaged_folders_are_inconclusive(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Inconclusive, match=r"weights lack visual_projection\.weight"):
        ClipEncoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(Inconclusive, match="cannot be read as a CLIP model") as caught:
        ClipEncoder(folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_weights_is_not_read(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Inconclusive, match="cannot be read as a CLIP model"):
        ClipEncoder(folder)


def test_hub_weights_offline_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Inconclusive, match="weights openai/clip cannot be fetched") as caught:
        fetch("openai/clip", "0" * 40)
    assert "\n" not in str(caught.value)
    assert "local folder" in caught.value.next_step


def test_a_folder_is_loaded_once(folder: Path) -> None:
    assert load_clip(str(folder), None) is load_clip(str(folder), None)


def test_card_is_json_that_reads_back(tmp_path: Path) -> None:
    path = card(tmp_path / "c.json", "clip", "a" * 64, owl=ROW)
    assert json.loads(path.read_text())["rows"]["owl"]["hits"] == 8
    found = Card.read(path, "clip", "a" * 64, SETTINGS)
    assert (found.rows, found.settings) == ({"owl": ROW}, SETTINGS)


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(CLIPModel, "from_pretrained", load)
    with pytest.raises(MemoryError):
        ClipEncoder(write_clip(tmp_path / "clip"))
