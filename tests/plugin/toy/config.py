from vstrain.config.schema import PositiveInt, Probability, SystemConfig


class Config(SystemConfig):
    width: PositiveInt
    flip: Probability
    dropout: Probability
