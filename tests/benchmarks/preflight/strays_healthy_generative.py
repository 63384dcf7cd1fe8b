"""The fifteenth round's healthy models that make things, that act, and that solve equations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import Stream
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import Manual, Task, mlp, photos, swings

MOONS = torch.randn(800, 2, generator=torch.Generator().manual_seed(11)) * 0.15 + torch.stack(
    [torch.cos(torch.arange(800) * 0.1), torch.sin(torch.arange(800) * 0.1)], 1
)


@healthy
def variational_with_sums() -> Built:
    """The first example of everybody: BCE summed over everything plus the KL, Adam at 0.001."""

    class Vae(Task):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc21, self.fc22 = nn.Linear(768, 100), nn.Linear(100, 10), nn.Linear(100, 10)
            self.fc3, self.fc4 = nn.Linear(10, 100), nn.Linear(100, 768)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h = F.relu(self.fc1(x.view(-1, 768)))
            mu, logvar = self.fc21(h), self.fc22(h)
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar

        def loss(self, batch: Any) -> Tensor:
            recon, mu, logvar = self(batch[0])
            bce = F.binary_cross_entropy(recon, batch[0].view(-1, 768), reduction="sum")
            return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    return Vae(), loader(*photos(), size=64)


@healthy
def codes_passed_straight_through() -> Built:
    """VQ-VAE: the nearest code, its gradient handed to the encoder, a commitment term."""

    class Vq(Task):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 16, 4, 2, 1))
            self.codes = nn.Embedding(64, 16)
            self.codes.weight.data.uniform_(-1 / 64, 1 / 64)
            self.decoder = nn.Sequential(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            z = self.encoder(x).permute(0, 2, 3, 1)
            nearest = torch.cdist(z.flatten(0, 2), self.codes.weight).argmin(1).view(z.shape[:3])
            q = self.codes(nearest)
            commit = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
            return F.mse_loss(self.decoder((z + (q - z).detach()).permute(0, 3, 1, 2)), x) + commit

    return Vq(), loader(*photos())


@healthy
def critic_with_a_penalty_of_its_gradient() -> Built:
    """WGAN-GP: three steps of the critic, one of the generator; Lightning's toggles."""

    class Wgan(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.critic = mlp(4, 48, 48, 2), mlp(2, 48, 48, 1, act=nn.LeakyReLU)

        def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
            share = torch.rand(len(real), 1)
            between = (share * real + (1 - share) * fake).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
            return 10 * (slope.norm(2, dim=1) - 1).square().mean()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            real = batch[0]
            of_g, of_c = self.optimizers()  # type: ignore[misc]
            for _ in range(3):
                self.toggle_optimizer(of_c)
                fake = self.generator(torch.randn(len(real), 4)).detach()
                loss = self.critic(fake).mean() - self.critic(real).mean() + self.penalty(real, fake)
                of_c.zero_grad()
                self.manual_backward(loss)
                of_c.step()
                self.untoggle_optimizer(of_c)
            self.toggle_optimizer(of_g)
            loss = -self.critic(self.generator(torch.randn(len(real), 4))).mean()
            of_g.zero_grad()
            self.manual_backward(loss)
            of_g.step()
            self.untoggle_optimizer(of_g)

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(n.parameters(), lr=5e-4, betas=(0.0, 0.9)) for n in (self.generator, self.critic)]

    return Wgan(), loader(MOONS, size=64)


@healthy
def dcgan_of_the_tutorial() -> Built:
    """Normal(0, 0.02) weights, Tanh, pictures between -1 and 1, a sigmoid and BCE."""

    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)

    class Dcgan(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.netG = nn.Sequential(
                nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
                nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
                nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh(),
            )  # fmt: skip
            self.netD = nn.Sequential(
                nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(16, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(32, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
            )  # fmt: skip
            self.apply(start)
            self.criterion = nn.BCELoss()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer_g, optimizer_d = self.optimizers()  # type: ignore[misc]
            real, ones, zeros = batch[0], torch.ones(len(batch[0])), torch.zeros(len(batch[0]))
            optimizer_d.zero_grad()
            self.manual_backward(self.criterion(self.netD(real).view(-1), ones))
            fake = self.netG(torch.randn(len(real), 16, 1, 1))
            self.manual_backward(self.criterion(self.netD(fake.detach()).view(-1), zeros))
            optimizer_d.step()
            optimizer_g.zero_grad()
            loss = self.criterion(self.netD(fake).view(-1), ones)
            self.manual_backward(loss)
            optimizer_g.step()
            self.log("loss_g", loss)

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (self.netG, self.netD)]

    return Dcgan(), loader(2 * photos()[0] - 1, size=64)


@healthy
def noise_that_is_taken_away() -> Built:
    """DDPM with a linear schedule, the time as sines, and a moving average of the weights."""

    class Diffusion(Task):
        kept: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-4, 0.02, 200), 0))
            self.net = mlp(2 + 16, 96, 96, 2, act=nn.SiLU)
            self.ema = copy.deepcopy(self.net).requires_grad_(False)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            angles = t[:, None] * torch.exp(-torch.arange(8) * 1.15)
            return self.net(torch.cat([x, angles.sin(), angles.cos()], 1))

        def loss(self, batch: Any) -> Tensor:
            x = batch[0]
            t, noise = torch.randint(0, 200, (len(x),)), torch.randn_like(x)
            kept = self.kept[t][:, None]
            return F.mse_loss(self(kept.sqrt() * x + (1 - kept).sqrt() * noise, t), noise)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            for mean, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                mean.data.mul_(0.999).add_(now.data, alpha=0.001)

    return Diffusion(), loader(MOONS, size=64)


@healthy
def flow_that_starts_at_the_identity() -> Built:
    """RealNVP: the last layer of each coupling at zero, the negative log-likelihood, which may be negative."""

    class Flow(Task):
        def __init__(self) -> None:
            super().__init__()
            self.couplings = nn.ModuleList(mlp(1, 32, 32, 2, act=nn.Tanh) for _ in range(4))
            for net in self.couplings:
                nn.init.zeros_(net[-1].weight)  # type: ignore[index]
                nn.init.zeros_(net[-1].bias)  # type: ignore[index]

        def loss(self, batch: Any) -> Tensor:
            x, log_det = batch[0], torch.zeros(len(batch[0]))
            for net in self.couplings:
                a, b = x.split(1, 1)
                s, t = net(a).tanh().split(1, 1)
                x, log_det = torch.cat([b * s.exp() + t, a], 1), log_det + s[:, 0]
            prior = torch.distributions.Normal(0.0, 1.0)
            return -(prior.log_prob(x).sum(1) + log_det).mean()

    return Flow(), loader(MOONS, size=64)


@healthy
def values_by_a_slow_copy() -> Built:
    """DQN out of a replay memory: the aim is another net's, hard-copied each hundred steps."""
    data = swings()
    data["action"] = (data["action"][:, 0] > 0).long()

    class Dqn(Task):
        def __init__(self) -> None:
            super().__init__()
            self.policy_net = mlp(3, 64, 64, 2)
            self.target_net = copy.deepcopy(self.policy_net)

        def loss(self, batch: Any) -> Tensor:
            now = self.policy_net(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
            with torch.no_grad():
                after = self.target_net(batch["next_obs"]).max(1).values
            return F.smooth_l1_loss(now, batch["reward"] + 0.95 * after * (1 - batch["done"]))

        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step % 100 == 0:
                self.target_net.load_state_dict(self.policy_net.state_dict())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.policy_net.parameters(), lr=1e-3, amsgrad=True)

    return Dqn(), rows(size=64, **data)


@healthy
def actor_and_two_critics() -> Built:
    """TD3: two critics, an actor that is scaled to ±2, soft targets; the actor learns from -Q at every second step."""

    class Td3(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critics = mlp(3, 48, 1, last=nn.Tanh), nn.ModuleList(mlp(4, 48, 1) for _ in range(2))
            self.slow = copy.deepcopy(nn.ModuleList([self.actor, self.critics])).requires_grad_(False)

        def values(self, critics: Any, obs: Tensor, action: Tensor) -> list[Tensor]:
            return [critic(torch.cat([obs, action], 1)).squeeze(1) for critic in critics]

        @torch.no_grad()
        def aim(self, batch: Any) -> Tensor:
            noise = (0.2 * torch.randn(len(batch["obs"]), 1)).clamp(-0.5, 0.5)
            action = (2 * self.slow[0](batch["next_obs"]) + noise).clamp(-2, 2)
            worst = torch.minimum(*self.values(self.slow[1], batch["next_obs"], action))
            return batch["reward"] + 0.95 * (1 - batch["done"]) * worst

        def training_step(self, batch: Any, batch_idx: int) -> None:
            of_actor, of_critics = self.optimizers()  # type: ignore[misc]
            aim = self.aim(batch)
            loss = sum(F.mse_loss(q, aim) for q in self.values(self.critics, batch["obs"], batch["action"]))
            of_critics.zero_grad()
            self.manual_backward(loss)  # type: ignore[arg-type]
            of_critics.step()
            if batch_idx % 2 == 0:
                of_actor.zero_grad()
                best = self.values(self.critics[:1], batch["obs"], 2 * self.actor(batch["obs"]))[0]
                self.manual_backward(-best.mean())
                of_actor.step()
                for slow, now in zip(self.slow[0].parameters(), self.actor.parameters(), strict=True):
                    slow.data.lerp_(now.data, 0.005)
                for slow, now in zip(self.slow[1].parameters(), self.critics.parameters(), strict=True):
                    slow.data.lerp_(now.data, 0.005)

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(n.parameters(), lr=1e-3) for n in (self.actor, self.critics)]

    return Td3(), rows(size=64, **swings())


@healthy
def policy_gradient_of_episodes() -> Built:
    """REINFORCE: episodes are played by the policy while they are asked for; returns are standardised."""
    policy = mlp(3, 32, 2, act=nn.Tanh)

    def episodes() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(400):
            obs = torch.randn(16, 3)
            with torch.no_grad():
                action = torch.distributions.Categorical(logits=policy(obs)).sample()
            reward = torch.where(action == 1, 1.0, -1.0) * obs[:, 0] + 0.1 * torch.randn(16)
            yield from zip(obs, action, (reward - reward.mean()) / reward.std(), strict=True)

    class Reinforce(Task):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def loss(self, batch: Any) -> Tensor:
            obs, action, gain = batch
            spread = torch.distributions.Categorical(logits=self.policy(obs))
            return -(spread.log_prob(action) * gain).mean() - 0.01 * spread.entropy().mean()

    return Reinforce(), DataLoader(Stream(episodes), 64)


@healthy
def equation_solved_by_its_residual() -> Built:
    """A PINN: u'' + u = 0 with u(0) = 0 and u'(0) = 1; the loss differentiates the net twice."""

    class Pinn(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(1, 32, 32, 1, act=nn.Tanh)

        def slope(self, u: Tensor, x: Tensor) -> Tensor:
            return torch.autograd.grad(u.sum(), x, create_graph=True)[0]

        def loss(self, batch: Any) -> Tensor:
            x = batch[0].clone().requires_grad_(True)
            u = self.net(x)
            inside = (self.slope(self.slope(u, x), x) + u).square().mean()
            start = torch.zeros(1, 1, requires_grad=True)
            at = self.net(start)
            return inside + at.square().sum() + (self.slope(at, start) - 1).square().sum()

    return Pinn(), loader(6.3 * torch.rand(640, 1), size=64)


@healthy
def picture_as_a_function_of_the_place() -> Built:
    """SIREN: sines with a frequency of thirty, weights drawn as the paper says; one picture."""
    side = torch.linspace(-1, 1, 32)
    places = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2)
    values = torch.sin(4 * places[:, :1]) * torch.cos(3 * places[:, 1:])

    class Sine(nn.Module):
        def __init__(self, inputs: int, outputs: int, first: bool) -> None:
            super().__init__()
            self.linear = nn.Linear(inputs, outputs)
            bound = 1 / inputs if first else (6 / inputs) ** 0.5 / 30
            nn.init.uniform_(self.linear.weight, -bound, bound)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(30 * self.linear(x))

    class Siren(Task):
        lr = 1e-4

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(Sine(2, 64, True), Sine(64, 64, False), nn.Linear(64, 1))
            nn.init.uniform_(self.net[-1].weight, -0.01, 0.01)  # type: ignore[arg-type]

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.net(batch[0]), batch[1])

    return Siren(), loader(places, values, size=256)


@healthy
def velocities_between_noise_and_data() -> Built:
    """Flow matching: a straight line from noise to data, its velocity is the aim; the helper sets it up."""

    class Matching(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, 96, 96, 2, act=nn.GELU)

        def loss(self, batch: Any) -> Tensor:
            noise, t = torch.randn_like(batch[0]), torch.rand(len(batch[0]), 1)
            v = self.net(torch.cat([(1 - t) * noise + t * batch[0], t], 1))
            return (v - (batch[0] - noise)).square().mean()

        def configure_optimizers(self) -> Any:
            import lightning_adam as la

            return la.configure_optimizers(self)

    return Matching(), loader(MOONS, size=64)
