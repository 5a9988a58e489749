import 'dart:convert';
import 'dart:io';

import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter_test/flutter_test.dart';

import 'golden.dart';

void main() {
  late Directory root;
  late File manifest;

  void use(String version) {
    final link = Link('${root.path}/current');
    if (link.existsSync()) link.deleteSync();
    if (version.isNotEmpty) link.createSync('versions/$version');
    // As the brain does: written beside it, moved into place, touched.
    final text = jsonEncode(
      goldenJson('manifest.json')
        ..['paths'] = {
          'base_model': root.path,
          'adapter_dir': link.path,
          'adapter': '${link.path}/lora_adapters.pt',
          'service': '${root.path}/service.sock',
        },
    );
    File('${root.path}/.new').writeAsStringSync(text);
    File('${root.path}/.new').renameSync(manifest.path);
    manifest.setLastModifiedSync(DateTime.now());
  }

  setUp(() {
    root = Directory.systemTemp.createTempSync('brain');
    manifest = File('${root.path}/manifest.json');
    use('');
  });

  tearDown(() => root.deleteSync(recursive: true));

  test('without a service the manifest tells of every change once', () async {
    final listener = BrainListener(
      manifest.path,
      debounce: const Duration(milliseconds: 50),
    );
    await listener.start();
    final seen = <String>[];
    listener.changes.listen((AdapterChange c) => seen.add(c.versionId));
    for (final version in ['000001-aa', '000001-aa', '000002-bb', '']) {
      use(version);
      await Future<void>.delayed(const Duration(milliseconds: 300));
    }
    expect(seen, ['000001-aa', '000002-bb', '']);
    await listener.close();
  });

  test('with a service its events tell, also after it was away', () async {
    final socket = InternetAddress(
      '${root.path}/service.sock',
      type: InternetAddressType.unix,
    );
    final asked = <String?>[];
    Future<HttpServer> serve(int from) async {
      final server = await HttpServer.bind(socket, 0);
      server.listen((HttpRequest request) async {
        final answer = request.response;
        if (request.uri.path == '/v1/status') {
          answer.write(golden('status.json'));
          await answer.close();
          return;
        }
        asked.add(request.headers.value('last-event-id'));
        answer.headers.contentType = ContentType('text', 'event-stream');
        answer.bufferOutput = false;
        answer.write(
          'event: promotion\nid: $from\ndata: {"sequence": $from, "kind": "promotion", '
          '"at_unix_s": 1, "data": {"version_id": "x", "sha256": ""}}\n\n',
        );
      });
      return server;
    }

    final first = await serve(12);
    final listener = BrainListener(
      manifest.path,
      debounce: const Duration(milliseconds: 50),
    );
    await listener.start();
    final seen = <int>[];
    listener.events.listen((BrainEvent e) => seen.add(e.sequence));
    await Future<void>.delayed(const Duration(milliseconds: 500));
    await first.close(force: true);
    File(socket.address).deleteSync();
    final second = await serve(13);
    await Future<void>.delayed(const Duration(seconds: 2));
    expect(seen, [12, 13]);
    expect(asked, ['11', '12']);
    await listener.close();
    await second.close(force: true);
  });
}
