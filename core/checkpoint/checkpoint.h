// Checkpoints: a folder a step, `step-00000100/`, of safetensors files and a manifest. See
// docs/checkpoints.md.
#pragma once

#include "core/checkpoint/checkpoint_folders.h"
#include "core/checkpoint/checkpoint_reader.h"
#include "core/checkpoint/checkpoint_writer.h"
#include "core/checkpoint/slice.h"
