# SPDX-License-Identifier: GPL-3.0-or-later
"""
@inproceedings{Zhang2024,
  title = {CryoGEM: Physics-Informed Generative Cryo-Electron Microscopy},
  author = {Zhang, Jiakai and Chen, Qihe and Zeng, Yan and Gao, Wenyuan and He, Xuming and Liu, Zhijie and Yu, Jingyi},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {37},
  year = {2024},
  url = {https://arxiv.org/abs/2312.02235}
}

@article{Sigworth1998,
  title = {A Maximum-Likelihood Approach to Single-Particle Image Refinement},
  author = {Sigworth, Fred J.},
  journal = {Journal of Structural Biology},
  volume = {122},
  number = {3},
  pages = {328-339},
  year = {1998},
  url = {https://doi.org/10.1006/jsbi.1998.4014}
}
"""
