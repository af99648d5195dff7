"""The titles of the causes in Chinese: many of the public threads about these errors are Chinese and unanswered.

>>> TITLES_ZH["hooks-removed"]
'卸载（offload）的权重在钩子被移除后滞留在 meta 上'
"""

from __future__ import annotations

TITLES_ZH: dict[str, str] = {
    "quantized-cast": "对已量化的模型做了 dtype 转换",
    "moved-after-dispatch": "模型已按 device_map 分发，之后又被移动（.to()、.cuda()、.cpu() 或 pipeline 的 device=）",
    "saving-offloaded-model": "保存的 state_dict 里是占位张量，不是真实权重",
    "concurrent-load": "两个线程同时加载模型",
    "concurrent-calls": "多个线程同时调用同一个含卸载权重的模型",
    "compiled-hooks": "torch.compile 遇到了 accelerate 的钩子",
    "adapter-on-offloaded-base": "把 PEFT 适配器加到（或合并进）含卸载权重的基座模型",
    "training-offloaded-layers": "被卸载的层没有得到训练",
    "distributed-loader-conflict": "DeepSpeed、FSDP 或分布式启动与 device_map 或低内存加载同时使用",
    "hooks-removed": "卸载（offload）的权重在钩子被移除后滞留在 meta 上",
    "submodule-replaced": "加载之后替换了子模块，它不在 device_map 之内",
    "forward-bypasses-hook": "钩子还在，但模块的 forward 已不再经过它",
    "constructor-on-meta": "模型自己的代码在构建时需要数值，而此时还没有数据",
    "quantized-offload-refused": "量化加载被拒绝：device_map 中含有 cpu 或 disk",
    "device-map-incomplete": "device_map 没有覆盖整个模型，或写了不存在的模块名",
    "offload-folder-missing": "device_map 需要用到磁盘，却没有给出 offload_folder",
    "missing-weight-data": "权重已标记为卸载，但钩子去取的地方没有数据",
    "tied-weights-split": "共享（tied）的权重被拆开了",
    "never-materialised": "模型只建了结构，权重从未真正加载",
    "quantization-state-lost": "打包后的权重丢失了量化状态",
    "quantization-skipped": "要求了量化，但部分或全部层并没有量化",
    "uninitialised-values": "没有张量在 meta 上，但有些数值从未加载（未初始化）",
    "quantization-backend-missing": "量化所需的库缺失、版本过旧，或找不到它的本地动态库",
    "weight-used-outside-hook": "卸载的权重本身正常，却在其模块的 forward 之外被直接读取",
    "input-on-meta": "输入被送到了 model.device，而它是 meta",
    "memory-already-taken": "显存或内存已被别的进程占用，模型因此溢出到 cpu 或 disk",
    "out-of-memory": "设备或主机内存不足",
    "environment-mismatch": "各个库的版本或构建互不匹配",
    "device-mismatch": "一次运算中遇到了两个真实的设备",
    "offload-notice": "把普通的卸载提示当成了错误",
    "unknown": "已知的原因都解释不了这个现象",
}


def title_zh(cause: str) -> str:
    """The Chinese title of a cause; its id where there is none yet."""
    return TITLES_ZH.get(cause, cause)
