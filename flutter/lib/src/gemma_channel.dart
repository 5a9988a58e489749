import 'package:flutter/services.dart';

import 'brain_listener.dart';

/// The channel by which the existing app (continuonai) tells its native side: `continuonai/gemma_runtime`,
/// `reloadAdapters{reason, base_model, adapter, safety_head}`.
class GemmaChannel {
  const GemmaChannel([
    this._channel = const MethodChannel('continuonai/gemma_runtime'),
  ]);

  final MethodChannel _channel;

  Future<void> reloadAdapters(AdapterChange change, {String reason = 'promotion'}) =>
      _channel.invokeMethod<void>('reloadAdapters', <String, Object?>{
        'reason': reason,
        'base_model': change.manifest.baseModel,
        'adapter': change.manifest.adapter,
        'safety_head': change.manifest.safetyHead,
      });
}
