"""The propagation engine against the plain one, on architectures and sequences drawn at random."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepmr.core import InputError
from deepmr.dropout import dropout_layers, shared_masks
from deepmr.mutagenesis import Mutations, predict_mutations, saturate
from deepmr.networks import SequenceModel
from deepmr.propagate import NotTraceable, PropagationError, Propagator

torch.set_num_threads(1)
QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def window(length, seed=0, dtype=torch.float64):
    codes = np.random.default_rng(seed).integers(0, 4, length)
    return F.one_hot(torch.as_tensor(codes), 4).T.to(dtype).contiguous()


def as_model(module, length, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.normal_(m.bias, std=0.3)
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            (
                m.running_mean.normal_(),
                m.running_var.uniform_(0.5, 2),
                m.weight.data.uniform_(-1, 2),
                m.bias.data.normal_(),
            )
    module = module.to(dtype).eval()
    with torch.no_grad():
        n = module(torch.zeros(1, 4, length, dtype=dtype)).shape[1]
    return SequenceModel(module, [f"label{i}" for i in range(n)], length, "random")


def draw_masks(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(shape, generator=g) >= p).to(model.dtype) / (1 - p)
        for name, (p, shape) in dropout_layers(model).items()
    }


def compare(module, length, tolerance=1e-12, dtype=torch.float64, chunk=None, outputs=None, fallbacks=()):
    """Every mutation of a window, edges included, with both engines; the Propagator."""
    model = as_model(module, length, dtype)
    outputs = list(range(len(model.labels))) if outputs is None else outputs
    engine = Propagator(model, outputs)
    assert [f in " ".join(engine.fallbacks) for f in fallbacks] == [True] * len(fallbacks), engine.fallbacks
    if not fallbacks:
        assert engine.fallbacks == []
    if chunk:
        engine.block = chunk
    x, masks = window(length, dtype=dtype), draw_masks(model)
    every = saturate(x.numpy())
    with shared_masks(model.module, masks):
        reference, mutants = predict_mutations(model, x, every, outputs)
    size = max(1.0, float(mutants.abs().max()))
    for _ in range(2):  # the second draw meets used buffers
        got, effects = engine.draw(x, every, masks)
        assert got.dtype == dtype and effects.shape == (len(every), len(outputs))
        assert float((got - reference).abs().max()) <= tolerance * size
        assert float((effects - (mutants - reference)).abs().max()) <= tolerance * size
    once = Propagator(model, outputs, check=False, draws=1)
    once.block = engine.block
    for some in (masks, {}):
        with shared_masks(model.module, some):
            reference, mutants = predict_mutations(model, x, every, outputs)
        got, effects = once.draw(x, every, some)
        assert float((got - reference).abs().max()) <= tolerance * size
        assert float((effects - (mutants - reference)).abs().max()) <= tolerance * size
    return engine


class Residual(nn.Module):
    def __init__(self, c, dilation=1, kernel=3, drop=None):
        super().__init__()
        self.conv = nn.Conv1d(c, c, kernel, padding="same", dilation=dilation)
        self.drop = drop or nn.Identity()

    def forward(self, x):
        return x + self.drop(F.relu(self.conv(x)))


class Cropped(nn.Module):
    "A residual block whose convolution is valid, as in ChromBPNet."

    def __init__(self, c, dilation):
        super().__init__()
        self.conv, self.d = nn.Conv1d(c, c, 3, dilation=dilation), dilation

    def forward(self, x):
        return x[:, :, self.d : -self.d] + F.relu(self.conv(x))


class Branches(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Conv1d(c, 3, 1), nn.Conv1d(c, 5, 7, padding=3)

    def forward(self, x):
        return torch.cat([self.a(x), F.gelu(self.b(x)), x], dim=1)


class Strands(nn.Module):
    "Reverse complement as a second copy in the batch, averaged at the end."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = self.inner(torch.cat([x, x.flip([1, 2])], 0))
        n = y.shape[0] // 2
        return (y[:n] + y[n:]) / 2


class TwoCalls(Strands):
    def forward(self, x):
        return (self.inner(x) + self.inner(torch.flip(x, (1, 2)))) / 2


class Wide(nn.Module):
    "Conv2d with kernels (1, k), as in the DeepSEA of Kipoi."

    def __init__(self, length):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 6, (1, 5)),
            nn.Threshold(0, 1e-6),
            nn.MaxPool2d((1, 2), (1, 2)),
            nn.Dropout(0.2),
            nn.Conv2d(6, 7, (1, 3)),
            nn.BatchNorm2d(7),
            nn.ReLU(),
            nn.Dropout2d(0.3),
        )
        self.last = nn.Linear(7 * ((length - 4) // 2 - 2), 3)

    def forward(self, x):
        y = self.body(x.unsqueeze(2))
        return torch.sigmoid(self.last(y.view(y.size(0), -1)))


class Excitation(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = nn.Linear(c, c)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(x.mean(-1))).unsqueeze(-1)


class Scaled(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(1, c, 1) + 0.5), nn.Parameter(torch.rand(c, 1))

    def forward(self, x):
        return 1 - 2 * torch.tanh(x * self.scale + self.shift) ** 2


def head(c, n=3):
    return [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c, n)]


ZOO = {
    "deepsea": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 6),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Dropout(0.2),
            nn.Conv1d(8, 9, 4),
            nn.ReLU(),
            nn.MaxPool1d(3),
            nn.Dropout(0.2),
            nn.Conv1d(9, 11, 3),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(11 * 5, 12),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(12, 7),
            nn.Sigmoid(),
        ),
        105,
    ),
    "basset": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 9, padding=4),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(3),
            nn.Dropout1d(0.2),
            nn.Conv1d(8, 8, 5, padding=2),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.MaxPool1d(4),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * 8, 6),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(6, 5),
        ),
        100,
    ),
    "dilated": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 9, padding=4),
            nn.ReLU(),
            *[Residual(6, 2**i, drop=nn.Dropout(0.1)) for i in range(1, 5)],
            *head(6),
        ),
        90,
    ),
    "cropped": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 9),
            nn.ReLU(),
            nn.Dropout(0.1),
            Cropped(6, 2),
            Cropped(6, 4),
            nn.Conv1d(6, 2, 5),
            nn.Flatten(),
        ),
        60,
    ),
    "strided, grouped": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 9, padding="same"),
            nn.ELU(),
            nn.Conv1d(8, 8, 5, stride=2, padding=2),
            nn.Dropout(0.2),
            nn.AvgPool1d(2),
            nn.Conv1d(8, 8, 3, groups=4, padding=1),
            nn.SiLU(),
            nn.Conv1d(8, 8, 3, groups=8, stride=3),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        80,
    ),
    "branches": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 5), nn.Dropout(0.1), Branches(6), nn.Softplus(), Branches(14), *head(22)
        ),
        50,
    ),
    "strands": (
        lambda: Strands(
            nn.Sequential(
                nn.Conv1d(4, 6, 5),
                nn.ReLU(),
                nn.MaxPool1d(3),
                nn.Dropout(0.2),
                nn.Conv1d(6, 5, 3),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(5 * 13, 4),
                nn.Sigmoid(),
            )
        ),
        51,
    ),
    "two calls": (
        lambda: TwoCalls(
            nn.Sequential(
                nn.Conv1d(4, 6, 5),
                nn.ReLU(),
                nn.MaxPool1d(3),
                nn.Conv1d(6, 5, 3),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(5 * 13, 4),
                nn.Sigmoid(),
            )
        ),
        51,
    ),
    "two-dimensional": (lambda: Wide(60), 60),
    "profile": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 7, padding=3),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv1d(6, 2, 5, padding=2),
            nn.Flatten(),
        ),
        40,
    ),
    "scaled": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 7, padding=3), Scaled(6), nn.Dropout(0.2), nn.MaxPool1d(4, 2, 1), *head(6)
        ),
        40,
    ),
    "small": (
        lambda: nn.Sequential(nn.Conv1d(4, 5, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(5, 2)),
        3,
    ),
}


class Central(nn.Module):
    "A stretch of the window, and beside the tower the strongest match of each first filter in the middle."

    def __init__(self, labels=77):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv1d(4, 12, 8), nn.Conv1d(12, 7, 3), nn.Conv1d(7, 8, 2)
        self.drops = nn.ModuleList(nn.Dropout(p) for p in (0.1, 0.1, 0.2, 0.3))
        self.fc, self.last = nn.Linear(8 * 5, 10), nn.Linear(10 + 12, labels)

    def forward(self, x):
        first = F.max_pool1d(torch.relu(self.c1(x[:, :, 20:100])), 3)
        strongest = first[:, :, 6:-6].amax(2)
        y = self.drops[1](torch.max_pool1d(self.c2(self.drops[0](first)).relu(), 2))
        y = self.drops[2](F.max_pool1d(F.relu(self.c3(y)), 2)).flatten(1)
        y = self.drops[3](F.relu(self.fc(y)))
        return torch.sigmoid(self.last(torch.cat([y, strongest], 1)))


def test_a_stretch_a_maximum_over_a_stretch_and_both_together():
    module = Central()
    engine = compare(module, 120, outputs=[7, 0])
    x, masks = window(120), draw_masks(engine.model)
    for draws in (1, 50):
        engine = Propagator(engine.model, [7, 0], draws=draws)
        with Made() as made:
            engine.draw(x, saturate(x.numpy()), masks)
        assert not [s for s in made.shapes if len(s) == 2 and s[0] > 1 and s[1] == 77]  # no label that was not asked


def test_weights_that_are_computed_and_padding_layers():
    made = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    for normed in made:
        layers = [normed(nn.Conv1d(4, 6, 5)), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.ConstantPad1d(-3, 0), nn.ZeroPad1d((2, 0))]
        module = nn.Sequential(*layers, nn.Conv1d(6, 5, 3), nn.GELU(), *head(5)).double().eval()
        model = SequenceModel(module, list("abc"), 40, "computed")
        x, masks = window(40), draw_masks(model)
        every = saturate(x.numpy())
        for draws in (1, 50):
            engine = Propagator(model, draws=draws)
            assert engine.fallbacks == []
            with shared_masks(module, masks):
                reference, mutants = predict_mutations(model, x, every, range(3))
            assert float((engine.draw(x, every, masks)[1] - (mutants - reference)).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("chunk", [None, 7])
def test_architectures_agree_with_the_plain_engine(name, chunk):
    make, length = ZOO[name]
    compare(make(), length, chunk=chunk)


@pytest.mark.parametrize("name", ZOO)
def test_single_precision(name):
    make, length = ZOO[name]
    compare(make(), length, tolerance=1e-5, dtype=torch.float32)


class ChannelsLast(nn.Module):
    "A network that turns its map to (N, L, C), in several ways, and what it does there."

    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.drop, self.flat = how, nn.Conv1d(4, 6, 5), nn.Dropout(0.2), nn.Linear(6 * 36, 3)
        self.at_each, self.norm, self.last, self.back = nn.Linear(6, 7), nn.LayerNorm(7), nn.Linear(7, 3), nn.Conv1d(7, 7, 3, padding=1)
        self.place = nn.Parameter(torch.randn(1, 36, 7))

    def forward(self, x):
        y = torch.relu(self.conv(x))
        if self.how == "reshape":
            return self.flat(self.drop(y.permute(0, 2, 1).reshape(x.shape[0], -1)))
        if self.how == "flatten":
            return self.flat(self.drop(torch.transpose(y, -1, 1)).contiguous().flatten(1))
        if self.how == "mT":
            return self.flat(y.mT.reshape(len(y), -1))
        y = self.norm(self.at_each(y.transpose(1, 2))) * 2 + self.place
        if self.how == "positions":
            return self.last(self.drop(F.gelu(y)).mean(1))
        if self.how == "maximum":
            return self.last((y + self.drop(y)).amax(1, keepdim=True)[:, 0])
        return self.last(self.drop(self.back(y.permute((0, 2, 1))).relu()).sum(2))  # and turns it back


@pytest.mark.parametrize("how", ["reshape", "flatten", "mT", "positions", "maximum", "back"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_maps_with_their_channels_last_are_carried(how, chunk):
    torch.manual_seed(0)
    compare(ChannelsLast(how), 40, chunk=chunk)


class Shares(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.drop, self.last = how, nn.Conv1d(4, 3, 5), nn.Dropout(0.2), nn.Linear(3, 2)
        self.shares = nn.Softmax(1)

    def forward(self, x):
        y = self.drop(self.conv(x))
        how = {"module": self.shares, "function": lambda z: F.softmax(z, dim=1), "method": lambda z: z.softmax(-2),
               "logarithm": lambda z: torch.log_softmax(z, 1), "turned": lambda z: z.mT.softmax(2).mT}
        return self.last(how[self.how](y).mean(2))


@pytest.mark.parametrize("how", ["module", "function", "method", "logarithm", "turned"])
def test_softmax_over_channels_is_carried(how):
    compare(Shares(how), 40)


def test_what_cannot_be_carried_is_computed_in_full():
    with pytest.warns(UserWarning, match="in full"):
        compare(
            nn.Sequential(
                nn.Conv1d(4, 6, 9, padding=4),
                nn.ReLU(),
                nn.Dropout(0.1),
                Excitation(6),
                nn.Conv1d(6, 4, 5),
                *head(4),
            ),
            50,
            fallbacks=["mul"],
        )
    with pytest.warns(UserWarning, match="in full"):
        compare(
            nn.Sequential(nn.Conv1d(4, 6, 5), nn.MaxPool1d(4, ceil_mode=True), nn.Dropout(0.1), *head(6)),
            41,
            fallbacks=["1"],
        )
    with pytest.warns(UserWarning, match="in full"):
        compare(
            nn.Sequential(nn.Conv1d(4, 6, 5), nn.Dropout(0.1), nn.LayerNorm(36), nn.ReLU(), *head(6)),
            40,
            fallbacks=["2"],
        )


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attend = nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, x):
        y = x.transpose(1, 2)
        return self.attend(y, y, y, need_weights=False)[0].transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.lstm = nn.LSTM(c, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        out, (hidden, _) = self.lstm(x.transpose(1, 2))
        return torch.cat([out.mean(1), hidden[-1]], 1)


class SinglePrecision(nn.Module):
    "Makes a float32 constant of its own, so that it cannot be run in float64."

    def forward(self, x):
        return torch.matmul(x.transpose(1, 2), torch.eye(6) * 2).transpose(1, 2)


class Exponential(nn.Module):
    def forward(self, x):
        return torch.exp(x.clamp(max=2)).amax(-1)


@pytest.mark.parametrize("middle, tail, named", [(Attention(6), head(6), "attend"), (Recurrent(6), [nn.Linear(15, 2)], "lstm")])
def test_attention_and_recurrence_are_computed_in_full(middle, tail, named):
    layers = [nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Dropout(0.1), middle, nn.Dropout(0.2), *tail]
    with pytest.warns(UserWarning, match="in full"):
        compare(nn.Sequential(*layers), 40, fallbacks=[named])


def test_functions_of_the_sequence_axis():
    compare(nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Dropout(0.1), Exponential(), nn.Linear(6, 2)), 40)


def test_a_network_tied_to_single_precision():
    layers = [nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Dropout(0.1), SinglePrecision(), *head(6)]
    with pytest.warns(UserWarning, match="in full"):
        compare(nn.Sequential(*layers), 40, 1e-5, torch.float32, fallbacks=["matmul"])


def test_an_output_that_is_not_one_tensor():
    class Several(nn.Module):
        def forward(self, x):
            return {"a": x.mean(-1)}

    model = as_model(nn.Sequential(nn.Conv1d(4, 2, 3), *head(2)), 20)
    model.module = Several()
    with pytest.raises(NotTraceable, match="cannot be propagated"):
        Propagator(model, [0], check=False)


class Made(TorchDispatchMode):
    "The shapes of all tensors that are made under it."

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.shapes += [tuple(out.shape)] if isinstance(out, torch.Tensor) else []
        return out


def test_only_the_outputs_asked_for():
    "The last layer of 77 outputs is cut to two: nothing that the engine computes in a draw has 77 columns."
    make, length = ZOO["deepsea"]
    module = make()
    module[15] = nn.Linear(12, 77)
    engine = compare(module, length, outputs=[5, 2])
    x, masks = window(length), draw_masks(engine.model)
    with Made() as made:
        engine.draw(x, saturate(x.numpy()), masks)
    widths = {shape[1] for shape in made.shapes if len(shape) == 2}
    assert 2 in widths and 77 not in widths


def test_building_is_bounded_for_long_dilated_networks():
    "One mutation reaches 2,011 positions here. Building must not hold 2,011 positions x 6,033 rows x 8 channels."
    blocks = [Residual(8, d, 11) for d in (20, 60, 120)]
    model = as_model(nn.Sequential(nn.Conv1d(4, 8, 11, padding=5), *blocks, nn.Dropout(0.1), *head(8)), 4000, torch.float32)
    with Made() as made:
        engine = Propagator(model, check=False)
    assert engine.block == 8 and engine.fallbacks == []
    assert max(np.prod(shape) for shape in made.shapes) < 2**25


IN_PLACE = {
    "F.relu": lambda z: F.relu(z, inplace=True),
    "F.relu, positional": lambda z: F.relu(z, True),
    "F.elu": lambda z: F.elu(z, 0.5, True),
    "relu_": lambda z: z.relu_(),
    "statement": lambda z: (z.relu_(), z)[1],
    "clamp_": lambda z: z.clamp_(min=0),
    "sigmoid_": lambda z: torch.sigmoid_(z),
    "mul_": lambda z: z.mul_(2),
    "read before and after": lambda z: z + z.relu_(),
    "twice": lambda z: (z.relu_(), z.mul_(2), z.sigmoid_(), z)[3],
}


@pytest.mark.parametrize("where", ["map", "rows"])
@pytest.mark.parametrize("how", IN_PLACE)
def test_functions_that_work_in_place(how, where):
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.hidden, self.last, self.drop = nn.Conv1d(4, 6, 5), nn.Linear(6, 5), nn.Linear(5, 2), nn.Dropout(0.2)

        def forward(self, x):
            y = self.conv(x)
            y = IN_PLACE[how](y) if where == "map" else torch.relu(y)
            z = self.hidden(self.drop(y).amax(-1))
            return self.last(IN_PLACE[how](z) if where == "rows" else torch.relu(z))

    compare(Overwrites(), 30)


def test_a_module_that_works_in_place_and_whose_input_is_read_again():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.drop = nn.Conv1d(4, 6, 5), nn.ReLU(inplace=True), nn.Dropout(0.2)

        def forward(self, x):
            y = self.conv(x)
            return self.drop(y + self.relu(y) + y).mean(2)

    compare(Overwrites(), 30)


class Shapes(nn.Module):
    "A network that asks for shapes as users do."

    def __init__(self, how):
        super().__init__()
        self.conv, self.drop, self.token, self.how = nn.Conv1d(4, 6, 5), nn.Dropout(0.2), nn.Parameter(torch.rand(1, 6, 1)), how

    def forward(self, x):
        return self.drop(SHAPES[self.how](self, torch.relu(self.conv(x)))).mean(2)


def asserted(net, y):
    _, c, length = y.shape
    assert y.dim() == 3 and y.ndim == 3 and c == 6 and length == y.size(-1) and y.dtype.is_floating_point
    return y * float(length) + torch.arange(length, device=y.device) / range(c)[-1]


SHAPES = {
    "asserted": asserted,
    "cut in half": lambda net, y: y[:, :, : y.shape[-1] // 2],
    "cut by size()": lambda net, y: y[..., y.size(2) // 4 : -(y.size(2) // 4)],
    "zeros": lambda net, y: y + torch.zeros(y.shape[0], 6, y.shape[2], dtype=y.dtype),
    "len": lambda net, y: y + torch.ones(len(y), 1, 1, dtype=y.dtype),
    "expand": lambda net, y: y * net.token.expand(y.shape[0], -1, y.size(2)),
    "view": lambda net, y: y.view(y.size(0), y.size(1) * y.size(2)).view(len(y), 6, -1),
    "for each channel": lambda net, y: torch.cat([y[:, i : i + 1] * (i + 1) for i in range(y.shape[1])], 1),
}


@pytest.mark.parametrize("how", SHAPES)
def test_shapes_are_constants(how):
    compare(Shapes(how), 30)
    assert "len" not in globals() and "either" not in torch.zeros.__qualname__  # tracing leaves nothing behind


@pytest.mark.parametrize("most", [2, 5, 40])
def test_a_branch_on_the_batch_is_refused(most):
    class Depends(nn.Module):
        def forward(self, x):
            return x.mean(2) if x.shape[0] > most else 2 * x.mean(2)

    with pytest.raises(InputError, match="different predictions for a window alone and in a batch"):
        SequenceModel(Depends(), list("abcd"), 20)


def test_a_branch_on_a_shape_is_no_constant():
    class Depends(nn.Module):
        def forward(self, x):
            return x.mean(2) if x.shape[0] > 100 else 2 * x.mean(2)  # no batch is as large

    with pytest.raises(NotTraceable, match=r"traced by torch.fx"):
        Propagator(SequenceModel(Depends(), list("abcd"), 20))


def test_a_network_that_leaves_torch_is_not_run_on_stand_ins():
    class Leaves(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.detach().numpy()).mean(2)

    with pytest.raises(NotTraceable, match=r"leaves torch with numpy"):
        Propagator(SequenceModel(Leaves(), list("abcd"), 20))


@st.composite
def networks(draw):
    """A random stack of what the engine knows, and its length."""
    length, c, layers = draw(st.integers(20, 70)), 4, []
    size = length
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "conv", "max", "mean", "residual", "branches"]))
        if kind == "conv":
            k, s, d = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
            p, g = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2]))
            if c % g or size + 2 * p < d * (k - 1) + 1:
                continue
            out = draw(st.integers(1, 4)) * g
            layers.append(nn.Conv1d(c, out, k, s, p, d, g, bias=draw(st.booleans())))
            c, size = out, (size + 2 * p - d * (k - 1) - 1) // s + 1
        elif kind in ("max", "mean"):
            k, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
            p = draw(st.integers(0, k // 2))
            if size + 2 * p < k:
                continue
            layers.append(nn.MaxPool1d(k, s, p) if kind == "max" else nn.AvgPool1d(k, s, p))
            size = (size + 2 * p - k) // s + 1
        elif kind == "residual":
            layers.append(Residual(c, draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 5]))))
        else:
            layers.append(Branches(c))
            c += 8
        layers.append(draw(st.sampled_from([nn.ReLU, nn.GELU, nn.ELU, nn.Softplus, nn.Tanh, nn.Identity]))())
        if draw(st.booleans()):
            layers.append(nn.BatchNorm1d(c))
        layers.append(draw(st.sampled_from([nn.Dropout(0.3), nn.Dropout1d(0.3), nn.Identity()])))
    end = draw(st.sampled_from(["flat", "mean", "max", "profile"]))
    tail = {
        "flat": [nn.Flatten(), nn.Linear(c * size, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 2)],
        "mean": head(c),
        "max": [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(c, 2), nn.Sigmoid()],
        "profile": [nn.Flatten()],
    }[end]
    return nn.Sequential(*layers, nn.Dropout(0.1), *tail), length


@QUICK
@given(networks(), st.sampled_from([None, 1, 5]))
def test_random_networks_agree_with_the_plain_engine(made, chunk):
    compare(*made, chunk=chunk)


def deepsea():
    make, length = ZOO["deepsea"]
    return as_model(make(), length), length


@QUICK
@given(st.data())
def test_any_order_and_any_subset(data):
    "The order changes no byte. A subset is rounded otherwise, as only its stretches are computed; so is a window beside its whole."
    model, length = deepsea()
    x = window(length, seed=data.draw(st.integers(0, 99)))
    every = saturate(x.numpy())
    rows = np.array(data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=30)))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(every))
    engine = SHARED.setdefault("engine", Propagator(model))
    masks = draw_masks(model, data.draw(st.integers(0, 9)))
    _, whole = engine.draw(x, every, masks)
    _, mixed = engine.draw(x, every[order], masks)
    assert torch.equal(mixed, whole[order])
    _, part = engine.draw(x, every[rows], masks)
    again = np.random.default_rng(0).permutation(np.repeat(np.arange(len(rows)), 2))
    _, twice = engine.draw(x, every[rows][again], masks)
    assert torch.equal(twice, part[again])
    torch.testing.assert_close(part, whole[rows], rtol=1e-11, atol=1e-13)


SHARED: dict = {}


class Tracked(nn.Module):
    "As bpnet-lite's BPNet: a control track beside the map, and its sum beside the mean."

    def __init__(self):
        super().__init__()
        self.conv, self.body, self.profile, self.count = nn.Conv1d(4, 6, 5, padding=2), Residual(6, 2), nn.Conv1d(8, 1, 7), nn.Linear(7, 1)
        self.register_buffer("track", torch.linspace(0, 3, 80).reshape(2, 40))

    def forward(self, x):
        track = torch.ones(len(x), 1, 1, dtype=x.dtype) * self.track
        y = self.body(self.conv(x).relu())
        counts = self.count(torch.cat([y.mean(2), torch.log(track.sum((1, 2)) + 1)[:, None]], 1))
        return torch.cat([self.profile(torch.cat([y, track], 1))[:, 0, 10:14], counts], 1)


@pytest.mark.filterwarnings("ignore:.*computed in full")
def test_a_constant_track_is_carried_beside_the_map():
    compare(Tracked(), 40, fallbacks=("getitem",))  # where positions become outputs, beside the count
    count_alone = compare(Tracked(), 40, outputs=[4], fallbacks=("getitem",))
    assert not any("cat" in f for f in count_alone.fallbacks)


@pytest.mark.filterwarnings("ignore:.*computed in full")
def test_what_einops_makes_is_carried():
    rearrange, reduce = pytest.importorskip("einops").rearrange, pytest.importorskip("einops").reduce

    class Rearranged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.out = nn.Conv1d(4, 6, 5), nn.MaxPool1d(4), nn.Linear(54, 2)

        def forward(self, x):
            return self.out(rearrange(self.pool(self.conv(x).relu()), "n c l -> n (c l)"))

    class Reduced(Rearranged):
        def forward(self, x):
            y = rearrange(self.conv(x).relu(), "n c (l k) -> n (c k) l", k=4)
            return self.out(reduce(y, "n (c k) l -> n (c l)", "max", k=4))

    compare(Rearranged(), 40)
    compare(Reduced(), 40, fallbacks=("reshape",))


def test_a_helper_that_asks_for_a_length():
    class Helped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(7, 2)

        def forward(self, x):
            return self.out(elsewhere["beside"](self.conv(x).relu().mean(2)))

    elsewhere = {"torch": torch}
    exec("def beside(y):\n    return torch.cat([y, torch.ones(len(y), 1, dtype=y.dtype)], 1)", elsewhere)  # a module of its own
    compare(Helped(), 40)


@pytest.mark.filterwarnings("ignore:.*computed in full")
def test_a_truth_value_is_carried():
    class Where(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5, padding=2), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(self.conv(x).masked_fill(x[:, :1] > 0, 0).mean(2))

    compare(Where(), 40, fallbacks=("gt", "masked_fill"))


def test_threads_do_not_change_a_byte():
    from concurrent.futures import ThreadPoolExecutor

    model, length = deepsea()
    x = window(length)
    engine, every, masks = Propagator(model), saturate(x.numpy()), [draw_masks(model, i) for i in range(12)]
    alone = [engine.draw(x, every, m)[1] for m in masks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda m: engine.draw(x, every, m)[1], masks))
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_no_mutation_and_no_change():
    model, length = deepsea()
    x = window(length)
    engine, masks = Propagator(model), draw_masks(model)
    none = Mutations(np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int8))
    reference, effects = engine.draw(x, none, masks)
    assert effects.shape == (0, 7) and reference.shape == (7,)
    base = int(x[:, 4].argmax())
    same = Mutations(np.array([4]), np.array([base], np.int8), np.array([base], np.int8))
    assert not engine.draw(x, same, masks)[1].any()


def test_a_network_that_cannot_be_traced():
    class Depends(nn.Module):
        def forward(self, x):
            return x.mean((1, 2))[:, None] if x.sum() > 0 else x[:, 0, :1]

    with pytest.raises(NotTraceable, match=r"traced by torch.fx"):
        Propagator(SequenceModel(Depends(), ["a"], 20))


def test_a_network_that_fails_in_the_check_is_left_to_the_plain_engine():
    def few(module, inputs):
        if inputs[0].dim() == 3 and len(inputs[0]) > 10:
            raise RuntimeError("too many")

    model = as_model(nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), *head(6)), 40)
    model.module[1].register_forward_pre_hook(few)
    with pytest.raises(NotTraceable, match=r"cannot be propagated \(RuntimeError: too many\)"):
        Propagator(model)


def test_one_warning_where_the_check_fails_too():
    "A layer of torch's with dropouts of its own, which no layer of the graph shows."
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.encoder, self.last = nn.Conv1d(4, 8, 7), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.encoder(self.conv(x).relu().transpose(1, 2)).mean(1))

    with pytest.raises(NotTraceable, match=r"encoder\.layers\.0\.self_attn:weights is not a layer"):  # and no warning, an error here
        Propagator(as_model(Encoder(), 40))


def test_a_broken_rule_is_caught():
    "A hook changes what a pooling gives, by more than rounding. The rule for pooling knows nothing of it."
    model, _ = deepsea()
    model.module[6].register_forward_hook(lambda module, inputs, out: out + 0.001 * out**2)
    with pytest.raises(PropagationError, match="differ from the plain ones"):
        Propagator(model)
    assert issubclass(PropagationError, NotTraceable)  # so that the plain engine takes over
