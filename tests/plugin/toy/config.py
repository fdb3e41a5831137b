from vstrain.config.schema import SystemConfig
from vstrain.config.strict import PositiveInt, Probability


class Config(SystemConfig):
    width: PositiveInt
    flip: Probability
    dropout: Probability
