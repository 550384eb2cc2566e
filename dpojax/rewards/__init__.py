"""Numbers for answers to prompts: learned, by rule, the environment's own, or a user's function.

`spec` reads what a setting says, `build` makes the rewards, `normalisation` puts them on one scale, `judge` and
`win_rate` compare two answers. docs/rewards.md is the reference.
"""
