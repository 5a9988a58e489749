import 'dart:io';

import 'brain_exception.dart';

/// What a path knows of adapters.
enum AdapterSupport {
  /// Always the current one.
  live,

  /// The one that it was exported with.
  merged,

  /// None: the base alone.
  none,
}

/// What a path of the manifest is, and what loads it.
class PathCapability {
  const PathCapability({
    required this.format,
    required this.engine,
    required this.adapter,
  });

  factory PathCapability.fromJson(Map<String, Object?> json) => PathCapability(
    format: field<String>(json, 'format'),
    engine: field<String>(json, 'engine'),
    adapter: AdapterSupport.values.firstWhere(
      (AdapterSupport s) => s.name == json['adapter'],
      orElse: () => AdapterSupport.none,
    ),
  );

  final String format;
  final String engine;
  final AdapterSupport adapter;
}

/// Lower and upper bound of an actuator.
typedef Bounds = ({double low, double high});

/// `model/manifest.json`: how an app finds the base, the adapter and the service.
class BrainManifest {
  const BrainManifest({
    required this.modelName,
    required this.engine,
    required this.backend,
    required this.quantization,
    required this.paths,
    required this.capabilities,
    required this.adapterRank,
    required this.adapterAlpha,
    required this.clampBounds,
    required this.warnThreshold,
    required this.blockThreshold,
  });

  /// Throws [BrainException], which names the key.
  factory BrainManifest.parse(String text) =>
      BrainManifest.fromJson(jsonObject(text, 'the manifest'));

  factory BrainManifest.fromJson(Map<String, Object?> json) {
    final runtime = field<Map<String, Object?>>(json, 'runtime');
    final paths = field<Map<String, Object?>>(json, 'paths');
    final adapter = field<Map<String, Object?>>(json, 'adapter_meta');
    final safety = optional<Map<String, Object?>>(json, 'safety') ?? const {};
    final bounds =
        optional<Map<String, Object?>>(safety, 'clamp_bounds') ?? const {};
    final capabilities =
        optional<Map<String, Object?>>(json, 'capabilities') ?? const {};
    return BrainManifest(
      modelName: field<String>(json, 'model_name'),
      engine: field<String>(runtime, 'engine'),
      backend: field<String>(runtime, 'backend'),
      quantization: field<String>(runtime, 'quantization'),
      paths: {
        for (final String name in paths.keys) name: field<String>(paths, name),
      },
      capabilities: {
        for (final String name in capabilities.keys)
          name: PathCapability.fromJson(
            field<Map<String, Object?>>(capabilities, name),
          ),
      },
      adapterRank: field<int>(adapter, 'rank'),
      adapterAlpha: field<num>(adapter, 'alpha').toDouble(),
      clampBounds: {
        for (final String name in bounds.keys)
          name: _bounds(field<List<Object?>>(bounds, name)),
      },
      warnThreshold: (optional<num>(safety, 'warn_threshold') ?? 0.25).toDouble(),
      blockThreshold: (optional<num>(safety, 'block_threshold') ?? 0.6).toDouble(),
    );
  }

  /// Reads the file anew. Throws [BrainException].
  static Future<BrainManifest> read(String path) async {
    try {
      return BrainManifest.parse(await File(path).readAsString());
    } on FileSystemException catch (error) {
      throw BrainException(
        'the manifest $path cannot be read: ${error.osError?.message ?? error.message}',
        remedy: 'create the brain root: continuonbrain init',
      );
    }
  }

  final String modelName;
  final String engine;
  final String backend;
  final String quantization;

  /// base_model, adapter_dir, adapter, service; safety_head, plain_bundle, merged_bundle where they are.
  final Map<String, String> paths;
  final Map<String, PathCapability> capabilities;
  final int adapterRank;
  final double adapterAlpha;

  /// steering and throttle.
  final Map<String, Bounds> clampBounds;
  final double warnThreshold;
  final double blockThreshold;

  String get baseModel => paths['base_model'] ?? '';
  String get adapterDir => paths['adapter_dir'] ?? '';
  String get adapter => paths['adapter'] ?? '';
  String? get safetyHead => paths['safety_head'];
  String? get serviceSocket => paths['service'];
}

Bounds _bounds(List<Object?> pair) {
  if (pair case [final num low, final num high]) {
    return (low: low.toDouble(), high: high.toDouble());
  }
  throw BrainException('clamp_bounds: $pair are not two numbers');
}
