"""What ONNX Runtime's CUDA provider says: its own words, library, code, meaning, and where."""

WHERE = (
    "; GPU=0 ; hostname=gpu-7 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/"
    "cuda_execution_provider.cc ; line=447 ; expr=cudaStreamSynchronize(stream_); "
)
ILLEGAL_ACCESS = f"CUDA failure 700: an illegal memory access was encountered {WHERE}"

LOSSES = {
    ILLEGAL_ACCESS: "CUDA failure 700: an illegal memory access was encountered",
    f"CUDA failure 719: unspecified launch failure {WHERE}": (
        "CUDA failure 719: unspecified launch failure"
    ),
    f"Non-zero status code returned while running Gemm node. CUBLAS failure 13: "
    f"CUBLAS_STATUS_EXECUTION_FAILED {WHERE}": "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
    f"CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED {WHERE}": (
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED"
    ),
    f"CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED {WHERE}": (
        "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED"
    ),
}

NO_MEMORY = "Failed to allocate memory for requested buffer of size 1024"
NO_LOSSES = (
    f"CUDA failure 2: out of memory {WHERE}",
    f"CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED {WHERE}",
    f"CUDA failure 900: operation not permitted when stream is capturing {WHERE}",
    NO_MEMORY,
    "Non-zero status code returned while running Gather node: indices element out of bounds",
)
