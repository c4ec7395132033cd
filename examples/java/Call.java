import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.protobuf.ByteString;
import dev.attendant.v1.*;
import io.grpc.ManagedChannelBuilder;
import java.nio.file.Files;
import java.nio.file.Path;

public final class Call {
  public static void main(String[] arguments) throws Exception {
    var target = System.getenv().getOrDefault("ATTENDANT_TARGET", "localhost:50051");
    var channel = ManagedChannelBuilder.forTarget(target).usePlaintext().build();

    var translation = TranslationServiceGrpc.newBlockingStub(channel);
    var texts = TranslateRequest.newBuilder()
        .addContents("A man is riding a horse on the beach.")
        .setOptions(DecodingOptions.newBuilder().setBeamSize(4));
    var translated = translation.withDeadlineAfter(10, SECONDS).translate(texts.build());
    System.out.println(translated.getResults(0).getHypotheses(0).getText());

    var classification = ClassificationServiceGrpc.newBlockingStub(channel);
    var file = ByteString.copyFrom(Files.readAllBytes(Path.of("examples/ship.jpg")));
    var images = ClassifyRequest.newBuilder()
        .addImages(Image.newBuilder().setContent(file))
        .setTopK(1);
    var classified = classification.withDeadlineAfter(10, SECONDS).classify(images.build());
    System.out.println(classified.getResults(0).getLabels(0).getLabel());

    channel.shutdown();
  }
}
