// Generates jets with a file of `pcdiff export`: generate_jets gluon30.onnx
// As CMSSW, Athena or Gaudi would: one environment and one session for the job, inputs and outputs by name.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: generate_jets FILE.onnx\n");
    return 2;
  }
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "generate_jets");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);  // a framework shares the cores among events itself
  Ort::Session session(env, argv[1], options);

  // Jets of gluon30: pt [GeV], eta, mass [GeV] and num_constituents, in the order of the metadata "features".
  const std::vector<std::array<float, 4>> jets = {{1050.f, 0.3f, 95.f, 62.f}, {1180.f, -0.9f, 140.f, 80.f}};
  std::vector<std::int64_t> counts = {30, 24};
  const std::int64_t clouds = jets.size(), points = 30, point_features = 3;

  std::mt19937_64 engine(7);
  std::normal_distribution<float> normal;
  std::vector<float> noise(clouds * points * point_features), features;
  for (float& value : noise) value = normal(engine);
  for (const auto& jet : jets) features.insert(features.end(), jet.begin(), jet.end());

  const std::array<std::int64_t, 3> noise_shape = {clouds, points, point_features};
  const std::array<std::int64_t, 1> counts_shape = {clouds};
  const std::array<std::int64_t, 2> features_shape = {clouds, 4};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<Ort::Value> inputs;
  inputs.push_back(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), noise_shape.data(), 3));
  inputs.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, counts.data(), counts.size(), counts_shape.data(), 1));
  inputs.push_back(Ort::Value::CreateTensor<float>(memory, features.data(), features.size(), features_shape.data(), 2));

  const std::array<const char*, 3> input_names = {"noise", "counts", "features"};
  const std::array<const char*, 1> output_names = {"points"};
  auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(),
                             output_names.data(), output_names.size());

  const float* made = outputs[0].GetTensorData<float>();  // (clouds, points, 3)
  for (std::int64_t i = 0; i < clouds; ++i) {
    std::printf("jet %d: pt %.1f GeV; etarel, phirel, ptrel of its constituents\n", static_cast<int>(i), jets[i][0]);
    for (std::int64_t k = 0; k < counts[i]; ++k) {
      const float* point = made + (i * points + k) * point_features;
      std::printf("%9.5f %9.5f %10.7f\n", point[0], point[1], point[2]);
    }
  }
}
