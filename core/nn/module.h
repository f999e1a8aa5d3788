// Module: a named tree of parameters. A model's author declares members and writes forward; nothing else.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/parameter.h"

namespace trireme {

/// Construction registers a module with its parent, under a name: `Linear up_{this, "up", 768, 3072};`
/// Parameters have shapes at once and memory later (see allocate_parameters, FlatBuckets).
class Module {
 public:
  Module() = default;
  Module(Module* parent, std::string name);
  virtual ~Module() = default;
  Module(const Module&) = delete;  // parameters and children are pointed to
  Module& operator=(const Module&) = delete;

  /// All parameters of the tree, in the order of declaration, which should be that of use in forward.
  std::vector<Parameter*> parameters() const;
  const std::string& name() const { return name_; }  // full: "h.3.attn"
  Parameter& parameter(const std::string& full_name) const;  // ConfigError with the nearest name when there is none
  int64_t num_parameters() const;  // elements of the global arrays

 protected:
  /// Declares a parameter of this module, e.g. add_parameter("weight", {O, I}, Init::normal(0.02f)). `shape` is that of
  /// the global array.
  Parameter& add_parameter(const std::string& name, Shape shape, Init init, Placement placement = {});

 private:
  struct Item {  // in order of declaration
    std::unique_ptr<Parameter> parameter;
    Module* child = nullptr;
  };
  std::string name_;
  std::vector<Item> items_;
};

}  // namespace trireme
