import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter_test/flutter_test.dart';

import 'golden.dart';

void main() {
  test('the manifest tells where everything is and what it can do', () {
    final manifest = BrainManifest.parse(golden('manifest.json'));
    expect(manifest.modelName, 'gemma-3n-E2B-it');
    expect(manifest.engine, 'flutter_gemma');
    expect(manifest.adapter, endsWith('/current/lora_adapters.pt'));
    expect(manifest.serviceSocket, endsWith('/run/service.sock'));
    expect(manifest.safetyHead, isNull);
    expect((manifest.adapterRank, manifest.adapterAlpha), (8, 16.0));
    expect(manifest.clampBounds['throttle'], (low: 0.0, high: 0.5));
    expect(manifest.capabilities['service']?.adapter, AdapterSupport.live);
    expect(
      manifest.capabilities['merged_bundle']?.adapter,
      AdapterSupport.merged,
    );
  });

  test('a manifest of an older brain is read, too', () {
    final json = goldenJson('manifest.json')
      ..remove('capabilities')
      ..remove('safety');
    (json['paths']! as Map<String, Object?>).remove('service');
    final manifest = BrainManifest.fromJson(json);
    expect(manifest.serviceSocket, isNull);
    expect(manifest.capabilities, isEmpty);
  });

  test('what is wrong is named', () {
    for (final (String text, String words) in [
      ('{', 'no JSON'),
      ('[]', 'no JSON object'),
      ('{}', 'runtime'),
      (
        golden('manifest.json').replaceFirst('"rank": 8', '"rank": "8"'),
        'rank',
      ),
    ]) {
      expect(
        () => BrainManifest.parse(text),
        throwsA(
          isA<BrainException>().having(
            (BrainException e) => e.message,
            'message',
            contains(words),
          ),
        ),
      );
    }
  });
}
