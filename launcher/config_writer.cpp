// Writing: a visitor that puts every key with its value into YAML that reads back equal.
#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include "launcher/config.h"
#include "launcher/config_fields.h"

namespace trireme {
namespace {

class Writer {
 public:
  template <class T>
  void field(const char* key, const T& value, const char*, const Rule& rule) {
    out_ << YAML::Key << key << YAML::Value;
    put(value, rule);
  }

  template <class T>
  void section(const char* key, T& value, const char*) {
    out_ << YAML::Key << key << YAML::Value;
    map(value);
  }

  template <class T>
  void map(T& value) {
    out_ << YAML::BeginMap;
    describe(*this, value);
    out_ << YAML::EndMap;
  }

  std::string text() const { return std::string(out_.c_str()) + "\n"; }

 private:
  void put(int64_t value, const Rule& rule) {
    if (value == 0 && !rule.zero_word.empty()) {
      out_ << rule.zero_word;
    } else {
      out_ << value;
    }
  }
  void put(int value, const Rule& rule) { put(int64_t{value}, rule); }
  void put(double value, const Rule&) {
    out_ << fmt::format("{}", value);
  }  // the shortest text that reads back equal
  void put(bool value, const Rule&) { out_ << value; }
  void put(const std::string& value, const Rule&) { out_ << value; }

  template <class T>
  void put(const std::array<T, 2>& values, const Rule& rule) {
    out_ << YAML::Flow << YAML::BeginSeq;
    for (T value : values) put(value, rule);
    out_ << YAML::EndSeq;
  }
  void put(const std::vector<std::string>& values, const Rule&) { out_ << YAML::Flow << values; }
  void put(const std::vector<int64_t>& values, const Rule&) { out_ << YAML::Flow << values; }
  void put(const std::vector<DataSource>& sources, const Rule&) {
    if (sources.empty()) out_ << YAML::Flow;
    out_ << YAML::BeginSeq;
    for (DataSource source : sources) {
      out_ << YAML::Flow;
      map(source);
    }
    out_ << YAML::EndSeq;
  }

  YAML::Emitter out_;
};

}  // namespace

std::string to_yaml(const Config& config) {
  Config copy = config;  // describe() serves readers too, and takes what it may change
  Writer writer;
  writer.map(copy);
  return writer.text();
}

}  // namespace trireme
