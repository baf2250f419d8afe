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
"""
