#include "core/nn/module.h"

#include <fmt/format.h>

#include "core/text.h"

namespace trireme {

Module::Module(Module* parent, std::string name) : name_(std::move(name)) {
  if (!parent) return;
  if (!parent->name_.empty()) name_ = parent->name_ + "." + name_;
  parent->items_.push_back({nullptr, this});
}

Parameter& Module::add_parameter(const std::string& name, Shape shape, Init init, Placement placement) {
  auto parameter = std::make_unique<Parameter>();
  parameter->name = name_.empty() ? name : name_ + "." + name;
  parameter->shape = shape;
  if (placement.is_split()) {
    TRIREME_ASSERT(placement.global == shape[placement.dim], parameter->name + ": a placement of another shape");
    parameter->shape[placement.dim] = placement.local();
  }
  parameter->init = init;
  parameter->placement = std::move(placement);
  parameter->decay = shape.rank() >= 2;
  items_.push_back({std::move(parameter), nullptr});
  return *items_.back().parameter;
}

std::vector<Parameter*> Module::parameters() const {
  std::vector<Parameter*> all;
  for (const Item& item : items_) {
    if (item.parameter) {
      all.push_back(item.parameter.get());
    } else {
      const auto inner = item.child->parameters();
      all.insert(all.end(), inner.begin(), inner.end());
    }
  }
  return all;
}

Parameter& Module::parameter(const std::string& full_name) const {
  std::vector<std::string> names;
  for (Parameter* p : parameters()) {
    if (p->name == full_name) return *p;
    names.push_back(p->name);
  }
  const std::string near = nearest_name(full_name, names);
  throw ConfigError(fmt::format("no parameter '{}'{}", full_name, near.empty() ? "" : "; did you mean '" + near + "'?"));
}

int64_t Module::num_parameters() const {
  int64_t n = 0;
  for (const Parameter* p : parameters()) n += p->global_shape().numel();
  return n;
}

}  // namespace trireme
