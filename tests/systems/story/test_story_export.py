import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from vstrain.systems.story.image.export import export
from vstrain.systems.story.image.module import System


def test_diffusers_opens_what_was_trained(make_config, tmp_path):
    torch.manual_seed(0)
    system = System(make_config("story_image"))
    system.configure_model()
    assert export(system.eval(), tmp_path) == [tmp_path / name for name in ("unet", "scheduler", "text_encoder")]
    generator = torch.Generator().manual_seed(1)
    x, states = torch.randn(2, 12, 8, 8, generator=generator), torch.randn(2, 8, 16, generator=generator)
    t = torch.tensor([3, 700])
    with torch.no_grad():
        elsewhere = UNet2DConditionModel.from_pretrained(tmp_path / "unet").eval()(x, t, states).sample
        torch.testing.assert_close(elsewhere, system.unet(x, t, states).sample)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    torch.testing.assert_close(scheduler.alphas_cumprod, system.schedule.alphas_cumprod)
    assert scheduler.config.prediction_type == "sample"
