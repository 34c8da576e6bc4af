"""The empty prompt against the real text encoders, tiny and random, with tokenizers made here."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5TokenizerFast,
)
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.prompt import CONDITION, empty_prompt, load_condition, save_condition
from aselect_edge.fold import FoldSpec, fold
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.records import Noise, Tap

SD3 = {"joint_attention_dim": 24, "pooled_projection_dim": 20}
"""Both CLIPs' widths, 8 and 12, are padded to T5's 24; their pooled embeddings are joined to 20."""


def save_clip(folder: Path, suffix: str, width: int) -> None:
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=width,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder / f"text_encoder{suffix}")


def save_t5(folder: Path, suffix: str) -> None:
    T5TokenizerFast(extra_ids=2).save_pretrained(folder / f"tokenizer{suffix}")
    config = T5Config(vocab_size=8, d_model=24, d_kv=6, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.1)
    T5EncoderModel(config).save_pretrained(folder / f"text_encoder{suffix}")


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd3")
    save_clip(folder, "", 8)
    save_clip(folder, "_2", 12)
    save_t5(folder, "_3")
    SD3Transformer2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        pos_embed_max_size=8,
        **SD3,
    ).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def pixart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pixart")
    save_t5(folder, "")
    PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=24,
        sample_size=16,
    ).save_pretrained(folder / "transformer")
    return folder


def test_sd3s_prompt_is_both_clips_padded_then_t5(sd3_folder: Path) -> None:
    loaded = load_backbone(str(sd3_folder))
    clips, pooled = [], []
    with torch.no_grad():
        for suffix in ("", "_2"):
            tokens = torch.tensor([[0] + [1] * 76])
            out = CLIPTextModelWithProjection.from_pretrained(sd3_folder / f"text_encoder{suffix}")(
                tokens, output_hidden_states=True
            )
            clips.append(out.hidden_states[-2])
            pooled.append(out.text_embeds)
        t5 = T5EncoderModel.from_pretrained(sd3_folder / "text_encoder_3").eval()(torch.tensor([[1] + [0] * 255]))
    clip = torch.nn.functional.pad(torch.cat(clips, 2), (0, 4))
    torch.testing.assert_close(
        dict(loaded.condition),
        {"prompt": torch.cat([clip, t5.last_hidden_state], 1), "pooled": torch.cat(pooled, 1)},
        rtol=1e-5,
        atol=1e-5,
    )
    assert loaded.condition["prompt"].shape == (1, 77 + 256, 24)


def test_zeros_stand_for_a_t5_that_is_not_there(sd3_folder: Path, tmp_path: Path) -> None:
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        (tmp_path / part).symlink_to(sd3_folder / part)
    whole, without = empty_prompt("sd3", SD3, sd3_folder), empty_prompt("sd3", SD3, tmp_path)
    assert torch.equal(without["prompt"][:, :77], whole["prompt"][:, :77])
    assert without["prompt"].shape == whole["prompt"].shape
    assert not without["prompt"][:, 77:].any()
    assert whole["prompt"][:, 77:].any()


def test_one_encoder_is_in_memory_at_a_time(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[PreTrainedModel]] = []
    original = PreTrainedModel.from_pretrained.__func__

    def counted(cls: type[PreTrainedModel], *arguments: Any, **options: Any) -> PreTrainedModel:
        assert not any(reference() for reference in alive)
        model: PreTrainedModel = original(cls, *arguments, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counted))
    empty_prompt("sd3", SD3, sd3_folder)
    assert len(alive) == 3
    assert not any(reference() for reference in alive)


@pytest.mark.parametrize(("kind", "length"), [("PixArtAlphaPipeline", 120), ("PixArtSigmaPipeline", 300)])
def test_pixarts_empty_prompt_has_one_valid_token(pixart_folder: Path, tmp_path: Path, kind: str, length: int) -> None:
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).symlink_to(pixart_folder / part)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    condition = empty_prompt("pixart", {}, tmp_path)
    assert condition["prompt"].shape == (1, length, 24)
    assert condition["mask"].tolist() == [[1] + [0] * (length - 1)]
    with torch.no_grad():
        alone = T5EncoderModel.from_pretrained(pixart_folder / "text_encoder").eval()(torch.tensor([[1]]))
    torch.testing.assert_close(condition["prompt"][:, :1], alone.last_hidden_state, rtol=1e-5, atol=1e-5)


def save_gemma(folder: Path, family: str, whole: bool) -> Any:
    """A tokenizer and the family's text encoder, with its own configuration or that of the whole model around it."""
    shape = {
        "vocab_size": 8,
        "hidden_size": 20,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "dropout_rate": 0.0,
    }
    torch.manual_seed(0)
    GemmaTokenizer(model_max_length=12, add_bos_token=True).save_pretrained(folder / "tokenizer")
    encoder = Gemma2Model(Gemma2Config(**shape)) if family == "sana" else T5GemmaEncoder(T5GemmaModuleConfig(**shape))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    encoder.save_pretrained(folder / "text_encoder")
    if whole:
        around = T5GemmaConfig(encoder=T5GemmaModuleConfig(**shape), decoder=T5GemmaModuleConfig(**shape))
        around.save_pretrained(folder / "text_encoder")
    return encoder.eval()


@pytest.mark.parametrize(("family", "whole"), [("prx", False), ("prx", True), ("sana", False)])
def test_gemmas_empty_prompt_is_its_first_token_alone(tmp_path: Path, family: str, whole: bool) -> None:
    encoder = save_gemma(tmp_path, family, whole)
    condition = empty_prompt(family, {}, tmp_path)
    length = 300 if family == "sana" else 12
    assert condition["prompt"].shape == (1, length, 20)
    assert condition["mask"].sum() == 1
    with torch.no_grad():
        alone = encoder(torch.tensor([[2]]))[0]  # <bos>
    torch.testing.assert_close(condition["prompt"][condition["mask"].bool()], alone[0], rtol=1e-4, atol=1e-5)
    save_condition(condition, tmp_path / CONDITION)
    assert torch.equal(load_condition(tmp_path / CONDITION)["mask"], condition["mask"])


def test_pixarts_cross_attention_folds_to_a_bias(pixart_folder: Path) -> None:
    loaded = load_backbone(str(pixart_folder))
    noise = Noise(alpha=0.8, sigma=0.6, model_timestep=100)
    folded = fold(
        loaded.model,
        FoldSpec.of(
            loaded.model, noise, [Tap(block=1, component="key")], (8, 8), noise_seed=0, condition=loaded.condition
        ),
    )
    assert not any("cross" in name for name in folded.state_dict())


def test_a_tokenizer_of_sentencepiece_alone_is_enough(pixart_folder: Path, tmp_path: Path) -> None:
    # PixArt's folders hold spiece.model and no tokenizer.json.
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "text.txt").write_text("a picture of a street\n" * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "tokenizer" / "spiece"),
        vocab_size=16,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (tmp_path / "text_encoder").symlink_to(pixart_folder / "text_encoder")
    condition = empty_prompt("pixart", {}, tmp_path)
    expected = empty_prompt("pixart", {}, pixart_folder)
    torch.testing.assert_close(dict(condition), dict(expected))


def test_without_text_encoders_the_error_says_what_to_do(sd3_folder: Path, pixart_folder: Path) -> None:
    for folder in (sd3_folder, pixart_folder):
        bare = folder.parent / "bare" / folder.name
        bare.mkdir(parents=True)
        (bare / "transformer").symlink_to(folder / "transformer")
        with pytest.raises(InputError, match=rf"no text_encoder folder.*embeddings, {CONDITION}"):
            load_backbone(str(bare))


def test_a_prompt_model_has_no_labels(sd3_folder: Path) -> None:
    with pytest.raises(InputError, match="got the label 3 for a sd3 model"):
        load_backbone(str(sd3_folder), label=3)


def test_a_broken_encoder_is_named(pixart_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(pixart_folder / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    for file in (pixart_folder / "text_encoder").iterdir():
        (tmp_path / "text_encoder" / file.name).write_bytes(file.read_bytes()[: 100 if "model" in file.name else None])
    with pytest.raises(InputError, match=r"text_encoder: not loaded .*expected a T5EncoderModel"):
        empty_prompt("pixart", {}, tmp_path)


def test_a_file_of_embeddings_replaces_the_encoders(sd3_folder: Path, tmp_path: Path) -> None:
    condition = {"prompt": torch.randn(1, 5, 24), "pooled": torch.randn(1, 20)}
    save_condition(condition, tmp_path / CONDITION)
    assert torch.equal(load_condition(tmp_path / CONDITION)["prompt"], condition["prompt"])
    (tmp_path / "transformer").symlink_to(sd3_folder / "transformer")
    assert torch.equal(load_backbone(str(tmp_path)).condition["pooled"], condition["pooled"])
    (tmp_path / CONDITION).write_bytes(b"not safetensors")
    with pytest.raises(IntegrityError, match="expected safetensors"):
        load_condition(tmp_path / CONDITION)
    save_condition({"prompt": torch.full((1, 2, 3), torch.nan)}, tmp_path / CONDITION)
    with pytest.raises(IntegrityError, match=r"prompt of shape \[1, 2, 3\], expected finite"):
        load_condition(tmp_path / CONDITION)
    with pytest.raises(InputError, match="no such file"):
        load_condition(tmp_path / "nowhere")


@pytest.mark.parametrize("how", [{"variant": "fp16"}, "bin"])
def test_a_text_encoder_in_another_form_gives_the_same(pixart_folder: Path, tmp_path: Path, how: Any) -> None:
    shutil.copytree(pixart_folder, tmp_path / "it")
    folder = tmp_path / "it" / "text_encoder"
    encoder = T5EncoderModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    if how == "bin":
        torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    else:
        encoder.save_pretrained(folder, **how)
    expected, got = empty_prompt("pixart", {}, pixart_folder), empty_prompt("pixart", {}, tmp_path / "it")
    torch.testing.assert_close(got["prompt"], expected["prompt"])


def test_a_quantised_text_encoder_is_refused(pixart_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(pixart_folder, tmp_path / "it")
    folder = tmp_path / "it" / "text_encoder"
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if key.endswith("q.weight"))
    save_file({**state, name: state[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="save it dequantised"):
        empty_prompt("pixart", {}, tmp_path / "it")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "bnb"}}))
    with pytest.raises(InputError, match="quantization_config: bnb"):
        empty_prompt("pixart", {}, tmp_path / "it")
