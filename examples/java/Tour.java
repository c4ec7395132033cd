import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.gson.GsonBuilder;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import dev.attendant.v1.*;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Every call of Attendant, and what a caller meets when one goes wrong. What came back is printed as
 * JSON: the tests hold it against what the Python client gets.
 */
public final class Tour {
  private static final List<String> TEXTS =
      List.of("Two dogs are running over a green meadow.", "", "A boy is eating.");
  private static final String LONG_TEXT =
      "A woman in a red dress is sitting on a bench. ".repeat(64);

  private final ManagedChannel channel;

  private Tour(ManagedChannel channel) {
    this.channel = channel;
  }

  public static void main(String[] arguments) throws Exception {
    var target = System.getenv().getOrDefault("ATTENDANT_TARGET", "localhost:50051");
    var channel = ManagedChannelBuilder.forTarget(target).usePlaintext().build();
    var tour = new Tour(channel);
    var seen = new LinkedHashMap<String, Object>();
    seen.put("translated", tour.translate());
    seen.put("streamed", tour.stream());
    seen.put("classified", tour.classify());
    seen.put("models", tour.describe());
    seen.put("unknown", failure(tour::askNobody));
    seen.put("late", failure(tour::hurry));
    seen.put("cancelled", failure(tour::leave));
    System.out.println(new GsonBuilder().serializeNulls().create().toJson(seen));
    channel.shutdown();
  }

  // Without a deadline a call would wait for ever.
  private TranslationServiceGrpc.TranslationServiceBlockingStub translation() {
    return TranslationServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20, SECONDS);
  }

  private Object translate() {
    var options =
        DecodingOptions.newBuilder().setBeamSize(4).setNumHypotheses(2).setReturnScores(true);
    var request = TranslateRequest.newBuilder().addAllContents(TEXTS).setOptions(options).build();
    var results = new ArrayList<>();
    for (var result : translation().translate(request).getResultsList()) {
      var hypotheses = result.getHypothesesList();
      results.add(
          Map.of(
              "code", result.getStatus().getCode(),
              "texts", hypotheses.stream().map(Hypothesis::getText).toList(),
              "scores", hypotheses.stream().map(Hypothesis::getScore).toList()));
    }
    return results;
  }

  /** What was sent piece by piece is, at the end, the finished text. */
  private Object stream() {
    var deltas = new ArrayList<String>();
    var finished = "";
    var events = translation().streamTranslate(streaming(TEXTS.get(0)));
    while (events.hasNext()) {
      var event = events.next();
      switch (event.getEventCase()) {
        case PARTIAL -> deltas.add(event.getPartial().getTextDelta());
        case FINISHED -> finished = event.getFinished().getResult().getHypotheses(0).getText();
        default -> {}
      }
    }
    return Map.of("deltas", deltas, "finished", finished);
  }

  /** An image that cannot be read is told in its own status: its neighbours are classified. */
  private Object classify() throws IOException {
    var request = ClassifyRequest.newBuilder().setTopK(2);
    for (var content :
        List.of(
            Files.readAllBytes(Path.of("examples/airplane.jpg")),
            "not an image".getBytes(),
            Files.readAllBytes(Path.of("examples/ship.jpg")))) {
      request.addImages(Image.newBuilder().setContent(ByteString.copyFrom(content)));
    }
    var classification =
        ClassificationServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20, SECONDS);
    var results = new ArrayList<>();
    for (var result : classification.classify(request.build()).getResultsList()) {
      var labels = result.getLabelsList().stream().map(LabelScore::getLabel).toList();
      var seen = codeAndReason(result.getStatus().getCode(), result.getStatus());
      seen.put("labels", labels);
      results.add(seen);
    }
    return results;
  }

  private Object describe() {
    var models = ModelServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20, SECONDS);
    var listed = models.listModels(ListModelsRequest.getDefaultInstance());
    var request = GetModelRequest.newBuilder().setName("captions-en-de").build();
    var model = models.getModel(request).getModel();
    var pairs =
        model.getTranslation().getLanguagePairsList().stream()
            .map(pair -> List.of(pair.getSourceLanguageCode(), pair.getTargetLanguageCode()))
            .toList();
    return Map.of(
        "names", listed.getModelsList().stream().map(Model::getName).toList(),
        "state", model.getState().name(),
        "task", model.getTaskCase().name().toLowerCase(),
        "pairs", pairs);
  }

  private void askNobody() {
    translation()
        .translate(TranslateRequest.newBuilder().addContents("x").setModel("nobody").build());
  }

  private void hurry() {
    translation()
        .withDeadlineAfter(1, MILLISECONDS)
        .translate(TranslateRequest.newBuilder().addContents(LONG_TEXT).build());
  }

  /** A caller that leaves after the first words frees its place in the server. */
  private void leave() {
    var context = Context.current().withCancellation();
    context.run(
        () -> {
          var events = translation().streamTranslate(streaming(LONG_TEXT));
          events.forEachRemaining(event -> context.cancel(null));
        });
  }

  private static StreamTranslateRequest streaming(String text) {
    var request = TranslateRequest.newBuilder().addContents(text);
    return StreamTranslateRequest.newBuilder().setRequest(request).build();
  }

  /** The code of a failed call and the reason from the README's list. */
  private static Object failure(Runnable calling) {
    try {
      calling.run();
    } catch (StatusRuntimeException error) {
      return codeAndReason(error.getStatus().getCode().value(), StatusProto.fromThrowable(error));
    }
    throw new AssertionError("the call succeeded");
  }

  private static Map<String, Object> codeAndReason(int code, Status status) {
    var seen = new LinkedHashMap<String, Object>();
    seen.put("code", code);
    seen.put("reason", null);
    for (var detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        seen.put("reason", unpack(detail).getReason());
      }
    }
    return seen;
  }

  private static ErrorInfo unpack(com.google.protobuf.Any detail) {
    try {
      return detail.unpack(ErrorInfo.class);
    } catch (InvalidProtocolBufferException broken) {
      throw new IllegalArgumentException(broken);
    }
  }
}
