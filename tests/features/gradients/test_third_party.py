"""Models that others wrote, random weights, every tensor of each, float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradient_reference import assert_equals_loop, normal
from torch import nn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _language_log_prob(module, x):
    logits = module(input_ids=x, use_cache=False).logits[:, :-1]
    return logits.log_softmax(-1).gather(2, x[:, 1:, None]).sum((1, 2))


def _tokens(vocabulary: int, n: int = 4, length: int = 7) -> torch.Tensor:
    return torch.randint(vocabulary, (n, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_transformers_gpt2(implementation):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=16, n_embd=12, n_layer=2, n_head=2, attn_implementation=implementation
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    assert_equals_loop(model, _tokens(17), _language_log_prob)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
    )
    model = transformers.LlamaForCausalLM(config).double().eval()
    assert_equals_loop(model, _tokens(17), _language_log_prob)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_diffusers_unet():
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    model = model.double().eval()

    def log_prob(module, x):
        noise = torch.sin(50 * x)
        predicted = module(0.8 * x + 0.6 * noise, 10).sample
        return -0.5 * (predicted - noise).square().sum((1, 2, 3))

    assert_equals_loop(model, normal(4, 1, 8, 8), log_prob)


@pytest.mark.parametrize("name", ["MAF", "NSF", "NICE", "GF", "SOSPF", "NAF"])
def test_zuko_flows(name):
    zuko = pytest.importorskip("zuko")
    flow = getattr(zuko.flows, name)(3, 0, transforms=2, **({} if name == "GF" else {"hidden_features": (8, 8)}))
    flow = flow.double().eval()
    looped = ("*",) if name in ("GF", "NAF") else ()  # these differentiate inside log_prob
    assert_equals_loop(flow, normal(6, 3), lambda m, x: m().log_prob(x), looped=looped, generic=("*",))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:.*nested_tensor.*:UserWarning")
def test_torch_transformer(batch_first, norm_first):
    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 8)
            self.transformer = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=batch_first, norm_first=norm_first)
            self.head = nn.Linear(8, 11)

    def log_prob(module, pair):
        source, target = (module.table(tokens) for tokens in pair)
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        if not batch_first:
            source, target = source.transpose(0, 1), target.transpose(0, 1)
        h = module.transformer(source, target, tgt_mask=mask)
        h = module.head(h if batch_first else h.transpose(0, 1))[:, :-1]
        return -F.cross_entropy(h.mT, pair[1][:, 1:], reduction="none").sum(1)

    model = Seq2Seq().double().eval()
    pair = (_tokens(11, length=5), _tokens(11, length=4))
    assert_equals_loop(model, pair, log_prob)
