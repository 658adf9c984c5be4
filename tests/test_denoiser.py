import pytest
import torch

from action_ddim import ActionTransformer1DModel
from action_ddim.denoiser import MAX_EXPLICIT_TOKENS, OverlappingLinear, attention, with_neighbours


def awake(**config) -> ActionTransformer1DModel:
    """A model whose weights are all random: a fresh one answers 0 to everything."""
    torch.manual_seed(0)
    model = ActionTransformer1DModel(**{"d_model": 16, "num_layers": 2, "nhead": 2, "patch_size": 4, "seq_len": 20, **config})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_fresh_model_answers_zero():
    model = ActionTransformer1DModel(d_model=16, num_layers=2, nhead=2, patch_size=4, seq_len=20)
    assert not model(torch.randn(3, 20, 3), torch.tensor([0, 500, 999])).sample.any()


@pytest.mark.parametrize("seq_len", [1, 19, 20, 21])
def test_any_length_goes_in_and_out(seq_len):
    model = awake(seq_len=seq_len)
    output = model(torch.randn(3, seq_len, 3), 7)
    assert output.sample.shape == (3, seq_len, 3)
    assert torch.isfinite(output.sample).all()


def test_timestep_is_a_number_or_one_a_sequence():
    model, sample = awake(), torch.randn(2, 20, 3)
    one_each = model(sample, torch.tensor([7, 900])).sample
    torch.testing.assert_close(one_each[:1], model(sample[:1], 7).sample)
    torch.testing.assert_close(one_each[1:], model(sample[1:], torch.tensor(900)).sample)
    assert not torch.allclose(model(sample, 7).sample, model(sample, 900).sample)


def test_tuple_is_the_sample():
    model, sample = awake(), torch.randn(2, 20, 3)
    assert torch.equal(model(sample, 7, return_dict=False)[0], model(sample, 7).sample)


@pytest.mark.parametrize("seq_len", [1, 19, 20])
def test_rest_head_says_of_each_step_whether_it_moves(seq_len):
    model, sample = awake(seq_len=seq_len, rest_head=True), torch.randn(3, seq_len, 3)
    output = model(sample, 7)
    assert output.move_logits.shape == (3, seq_len - 1, 2)
    assert [values.shape for values in model(sample, 7, return_dict=False)] == [sample.shape, (3, seq_len - 1, 2)]
    assert awake(seq_len=seq_len)(sample, 7).move_logits is None


def test_output_is_the_input_where_there_is_hardly_any_noise():
    sample = torch.randn(2, 20, 3)
    plain, blended = awake(), awake(input_timesteps=10)
    for timestep, share in ((0, 1.0), (9, 0.5), (99, 0.0)):
        expected = torch.lerp(plain(sample, timestep).sample, sample, share)
        torch.testing.assert_close(blended(sample, timestep).sample, expected, rtol=0, atol=2e-3)
    each = blended(sample, torch.tensor([0, 99])).sample
    torch.testing.assert_close(each[1:], blended(sample[1:], 99).sample)


def test_patches_read_and_write_their_neighbours():
    """Without attention's reach (no blocks), a step moves the outputs of its own patch, and of two on either side."""
    model, sample = awake(num_layers=0, seq_len=28), torch.zeros(1, 28, 3)
    sample.requires_grad_()
    model(sample, 7).sample[0, 12:16].sum().backward()
    touched = sample.grad[0].abs().sum(dim=1) > 0
    assert touched.tolist() == [4 <= step < 24 for step in range(28)]


@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_overlapping_layer_is_torchs_convolution(num_tokens):
    layer, tokens = OverlappingLinear(5, 6), torch.randn(2, num_tokens, 5)
    convolution = torch.nn.Conv1d(5, 6, 3, padding=1, padding_mode="replicate")
    convolution.load_state_dict(layer.state_dict())
    expected = convolution(tokens.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(layer(with_neighbours(tokens)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [3, MAX_EXPLICIT_TOKENS, MAX_EXPLICIT_TOKENS + 1])
def test_attention_and_its_gradient_are_those_of_torch(num_tokens):
    ours = [torch.randn(2, 4, num_tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    theirs = [values.detach().clone().requires_grad_() for values in ours]
    attended = attention(*ours), torch.nn.functional.scaled_dot_product_attention(*theirs)
    torch.testing.assert_close(*attended)
    for output in attended:
        output.square().sum().backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)


def test_every_step_sees_every_step():
    model, sample = awake(), torch.zeros(1, 20, 3, requires_grad=True)
    model(sample, 7).sample[0, 0].sum().backward()
    assert (sample.grad[0].abs().sum(dim=1) > 0).all()


def test_dropout_acts_in_training_only():
    model, sample = awake(dropout=0.5), torch.randn(2, 20, 3)
    assert torch.equal(model(sample, 7).sample, model(sample, 7).sample)
    model.train()
    assert not torch.equal(model(sample, 7).sample, model(sample, 7).sample)


@pytest.mark.parametrize("config", [{"d_model": 16, "nhead": 3}, {"d_model": 15, "nhead": 3}])
def test_impossible_widths_are_refused(config):
    with pytest.raises(ValueError, match="d_model"):
        awake(**config)


def test_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 21, 3\)"):
        awake()(torch.randn(2, 21, 3), 7)


@pytest.mark.slow
def test_from_pretrained_is_bit_equal_in_a_fresh_process(tmp_path, python):
    model, sample = awake(seq_len=19), torch.randn(2, 19, 3)
    model.save_pretrained(tmp_path / "denoiser")
    torch.save({"sample": sample, "output": model(sample, 7).sample}, tmp_path / "expected.pt")
    script = """
import torch
from action_ddim import ActionTransformer1DModel
expected = torch.load("expected.pt", weights_only=True)
model = ActionTransformer1DModel.from_pretrained("denoiser")
assert torch.equal(model(expected["sample"], 7).sample, expected["output"])
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in sorted((tmp_path / "denoiser").iterdir())] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_bfloat16_model_answers_in_bfloat16():
    model = awake().to(torch.bfloat16)
    assert model(torch.randn(2, 20, 3, dtype=torch.bfloat16), 7).sample.dtype == torch.bfloat16
