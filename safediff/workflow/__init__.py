"""The main job: policy -> erase -> verify -> export -> verify the engine -> release."""
